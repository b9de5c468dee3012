package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/internal/attribution"
	"bulkhead/internal/testenv"
)

// signalled says "ready", and after a signal how many came within 0.3 s. As "deaf" it ignores them and says its number.
const signalled = `
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static volatile int got;
static void count(int s) { got++; }
int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = argc > 1 ? SIG_IGN : count};
	int signals[] = {SIGINT, SIGTERM, SIGQUIT, SIGHUP};
	for (int i = 0; i < 4; i++)
		sigaction(signals[i], &action, 0);
	printf("ready %d.\n", getpid());
	fflush(stdout);
	while (argc > 1 || !got)
		usleep(1000);
	for (int i = 0; i < 300; i++)
		usleep(1000);
	printf("signals: %d.\n", got);
	return 40 + got;
}
`

// A first signal is for the command, once, however it comes. The second ends the trace. The document is written always.
func TestSignals(t *testing.T) {
	t.Parallel()
	requireTrace(t)
	program := compileSignalled(t)
	for _, tt := range []struct {
		name     string
		terminal bool
		keys     string           // typed on the terminal, one by one
		signals  []syscall.Signal // sent to bulkhead
		arg      []string         // of the command
		want     int
	}{
		{name: "Ctrl-C", terminal: true, keys: "\x03", want: 41},
		{name: `Ctrl-\`, terminal: true, keys: "\x1c", want: 41},
		{name: "SIGTERM on a terminal", terminal: true, signals: []syscall.Signal{syscall.SIGTERM}, want: 41},
		{name: "SIGINT", signals: []syscall.Signal{syscall.SIGINT}, want: 41},
		{name: "SIGTERM", signals: []syscall.Signal{syscall.SIGTERM}, want: 41},
		{name: "SIGHUP", signals: []syscall.Signal{syscall.SIGHUP}, want: 41},
		{name: "two Ctrl-C, ignored", terminal: true, keys: "\x03\x03", arg: []string{"deaf"}, want: 130},
		{name: "two SIGTERM, ignored", signals: []syscall.Signal{syscall.SIGTERM, syscall.SIGTERM}, arg: []string{"deaf"}, want: 143},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			out := filepath.Join(t.TempDir(), "doc.json")
			run := startTrace(t, tt.terminal, append([]string{"--out", out, "--", program}, tt.arg...)...)
			pid := run.await(`ready (\d+)\.`)
			for _, key := range tt.keys {
				run.pause()
				run.write(string(key))
			}
			for _, s := range tt.signals {
				run.pause()
				if err := run.command.Process.Signal(s); err != nil {
					t.Fatal(err)
				}
			}
			if got := run.wait(); got != tt.want {
				t.Errorf("exit status %d, want %d", got, tt.want)
			}
			if tt.arg == nil {
				run.await(`signals: 1\.`)
			} else if child, _ := strconv.Atoi(pid); child > 0 {
				if err := unix.Kill(child, unix.SIGKILL); err != nil {
					t.Errorf("the command did not outlive the trace: %v", err)
				}
			}
			checkSignalled(t, out)
		})
	}
}

func compileSignalled(t *testing.T) string {
	t.Helper()
	gcc := testenv.Tool(t, "gcc")
	program := filepath.Join(t.TempDir(), "signalled")
	command := exec.Command(gcc, "-O2", "-o", program, "-x", "c", "-")
	command.Stdin = strings.NewReader(signalled)
	if said, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	return program
}

func checkSignalled(t *testing.T, path string) {
	t.Helper()
	d, err := attribution.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Programs) != 1 || attribution.ObjectName(d.Programs[0].Path) != "signalled" || !d.Programs[0].Complete {
		t.Errorf("the document is not a complete one of the command: %+v", d.Programs)
	}
}

// A table on a terminal has colours and its width, unless NO_COLOR is set.
func TestTerminalTable(t *testing.T) {
	t.Parallel()
	requireTrace(t)
	for _, tt := range []struct {
		name, environment string
		coloured          bool
	}{{"colours", "NO_COLOR=", true}, {"NO_COLOR", "NO_COLOR=1", false}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			run := startProgram(t, true, []string{tt.environment}, "trace", "--", "true")
			if got := run.wait(); got != 0 {
				t.Errorf("exit status %d", got)
			}
			<-run.ended // the terminal is closed
			said := run.output()
			if got := strings.Contains(said, "\x1b["); got != tt.coloured {
				t.Errorf("colours: %t, want %t:\n%s", got, tt.coloured, said)
			}
			escapes := regexp.MustCompile("\x1b\\[[0-9;]*m")
			for _, line := range strings.Split(escapes.ReplaceAllString(said, ""), "\r\n") {
				if n := len([]rune(line)); n > terminalColumns {
					t.Errorf("a line has %d columns on a terminal of %d: %s", n, terminalColumns, line)
				}
			}
		})
	}
}

// traced is a running bulkhead, its three standard files one terminal or pipe.
type traced struct {
	t       *testing.T
	command *exec.Cmd
	input   io.WriteCloser
	mu      sync.Mutex
	said    bytes.Buffer
	ended   chan struct{} // the output
}

func startTrace(t *testing.T, terminal bool, args ...string) *traced {
	t.Helper()
	return startProgram(t, terminal, nil, append([]string{"trace"}, args...)...)
}

// startProgram runs bulkhead in a session of its own, with or without a controlling terminal.
func startProgram(t *testing.T, terminal bool, environment []string, args ...string) *traced {
	t.Helper()
	r := &traced{t: t, command: exec.Command("bulkhead", args...), ended: make(chan struct{})}
	r.command.Env = append(append(os.Environ(), "TERM=xterm", "XDG_CACHE_HOME="+t.TempDir()), environment...)
	var output io.ReadCloser
	if terminal {
		master, slave := openTerminal(t)
		r.command.Stdin, r.command.Stdout, r.command.Stderr = slave, slave, slave
		r.command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		r.input, output = master, master
		defer slave.Close()
	} else {
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.command.Stdout, r.command.Stderr = writer, writer
		r.command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		output = reader
		defer writer.Close()
	}
	if err := r.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.ended)
		buffer := make([]byte, 4096)
		for {
			n, err := output.Read(buffer)
			r.mu.Lock()
			r.said.Write(buffer[:n])
			r.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = r.command.Process.Kill() // it has ended, unless the test failed
		output.Close()
	})
	return r
}

const terminalColumns = 90

func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: terminalColumns}); err != nil {
		t.Fatal(err)
	}
	if slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func (r *traced) output() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.said.String()
}

// await waits for a pattern in the output and returns its group, if it has one.
func (r *traced) await(pattern string) string {
	r.t.Helper()
	match := regexp.MustCompile(pattern)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if found := match.FindStringSubmatch(r.output()); found != nil {
			return found[len(found)-1]
		}
		if time.Now().After(end) {
			r.t.Fatalf("no %s in the output:\n%s", pattern, r.output())
		}
	}
}

// pause lets bulkhead take notice of one signal before the next: equal ones that are pending become one.
func (r *traced) pause() { time.Sleep(200 * time.Millisecond) }

func (r *traced) write(text string) {
	r.t.Helper()
	if _, err := io.WriteString(r.input, text); err != nil {
		r.t.Fatal(err)
	}
}

// wait returns the exit status as a shell gives it.
func (r *traced) wait() int {
	r.t.Helper()
	done := make(chan error, 1)
	go func() { done <- r.command.Wait() }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		r.t.Fatalf("bulkhead does not end; it said:\n%s", r.output())
	}
	return shellStatus(r.command.ProcessState)
}
