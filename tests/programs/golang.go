// Go: goroutines on several threads that sleep by the runtime's timers (epoll and eventfd), talk over channels, grow
// their stacks, and fill a heap that the collector cleans meanwhile.
package main

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

func deep(n int) int {
	var frame [64]int
	frame[n%64] = n
	if n == 0 {
		return 0
	}
	return deep(n-1) + frame[n%64] - n + 1
}

func main() {
	goFile := os.Getenv("CKPT_TEST_GO")
	var stop int32
	var group, started sync.WaitGroup
	counts := make([]int, 8)
	kept := make([]map[int]string, 8)
	ticks := make(chan int)
	for i := range counts {
		group.Add(1)
		started.Add(1)
		kept[i] = map[int]string{}
		go func(i int) {
			defer group.Done()
			for atomic.LoadInt32(&stop) == 0 {
				n := counts[i] % 1000
				kept[i][n] = fmt.Sprint(i, "keeps", n)
				if counts[i]++; counts[i] == 1 {
					started.Done()
				}
				if i == 0 {
					runtime.GC()
				}
				time.Sleep(time.Millisecond)
				select {
				case ticks <- i:
				case <-time.After(time.Millisecond):
				}
			}
		}(i)
	}
	started.Wait()
	heard := 0
	<-ticks
	fmt.Println("ready")
	since := time.Now()
	ticker := time.NewTicker(2 * time.Millisecond)
	for time.Since(since) < 180*time.Second {
		if _, err := os.Stat(goFile); err == nil {
			break
		}
		select {
		case <-ticks:
			heard++
		case <-ticker.C:
		}
	}
	for begun := time.Now(); heard < 100 && time.Since(begun) < 20*time.Second; heard++ {
		<-ticks
	}
	atomic.StoreInt32(&stop, 1)
	group.Wait()
	alive := 0
	for i, n := range counts {
		if n > 0 && kept[i][0] == fmt.Sprint(i, "keeps", 0) {
			alive++
		}
	}
	fmt.Println("goroutines that counted:", alive, "depth", deep(100000), "heard", heard >= 100)
}
