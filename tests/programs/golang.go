// Go: goroutines on several threads, stacks that grow, a heap with maps. It neither sleeps by the runtime's timers nor lets
// the collector run before the restore: both make an epoll instance, which this version of ckptctl refuses.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
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
	debug.SetGCPercent(-1)
	goFile := os.Getenv("CKPT_TEST_GO")
	var stop int32
	var group, started sync.WaitGroup
	counts := make([]int, 8)
	kept := make([]map[int]string, 8)
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
				pause := syscall.Timespec{Nsec: 1000000}
				syscall.Nanosleep(&pause, nil)
			}
		}(i)
	}
	started.Wait()
	syscall.Write(1, []byte("ready\n"))
	since := time.Now()
	for syscall.Access(goFile, 0) != nil && time.Since(since) < 180*time.Second {
		runtime.Gosched()
	}
	atomic.StoreInt32(&stop, 1)
	group.Wait()
	runtime.GC()
	alive := 0
	for i, n := range counts {
		if n > 0 && kept[i][0] == fmt.Sprint(i, "keeps", 0) {
			alive++
		}
	}
	syscall.Write(1, []byte(fmt.Sprintln("goroutines that counted:", alive, "depth", deep(100000))))
}
