// Go: goroutines on several threads, timers of the runtime, a garbage-collected heap.
package main

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"
)

func main() {
	goFile := os.Getenv("CKPT_TEST_GO")
	stop := make(chan struct{})
	var group sync.WaitGroup
	counts := make([]int, 8)
	for i := range counts {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			kept := map[int][]byte{}
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
					kept[n%100] = make([]byte, 1000)
					counts[i]++
					time.Sleep(time.Millisecond)
				}
			}
		}(i)
	}
	fmt.Println("ready")
	for n := 0; n < 90000; n++ {
		if _, err := os.Stat(goFile); err == nil {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	close(stop)
	group.Wait()
	runtime.GC()
	alive := 0
	for _, n := range counts {
		if n > 0 {
			alive++
		}
	}
	fmt.Println("goroutines that counted:", alive)
}
