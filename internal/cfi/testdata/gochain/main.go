// Gochain blocks in three ways: the main goroutine stops the world forever (on the thread's system stack), another one is in
// a system call, and a third waits without giving up its thread, which therefore is in the scheduler. Run it with GODEBUG=asyncpreemptoff=1.
package main

import (
	"runtime"
	"syscall"
	"time"
)

var sink int

//go:noinline
func inner(n int) int {
	var buf [200]byte
	buf[n] = 1
	syscall.Syscall(syscall.SYS_PAUSE, 0, 0, 0)
	return int(buf[n+1]) + n
}

//go:noinline
func outer(n int) int { return inner(n) + sink }

func waiter() { sink = outer(3) }

func park() {
	runtime.LockOSThread()
	select {}
}

func spin() {
	for {
	}
}

//go:noinline
func collect() { runtime.GC() }

func main() {
	runtime.GOMAXPROCS(4)
	go waiter()
	go park()
	time.Sleep(50 * time.Millisecond)
	go spin()
	time.Sleep(50 * time.Millisecond)
	collect()
}
