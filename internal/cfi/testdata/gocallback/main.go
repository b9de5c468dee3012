// Gocallback goes from Go to C, back to Go and again to C, which blocks.
package main

/*
#include <unistd.h>
extern void goMiddle(int);
static void innerC(void) { pause(); }
static void outerC(int n) { goMiddle(n + 1); }
*/
import "C"

//export goMiddle
func goMiddle(n C.int) { callInner() }

//go:noinline
func callInner() { C.innerC() }

//go:noinline
func callOuter(n int) { C.outerC(C.int(n)) }

func main() { callOuter(1) }
