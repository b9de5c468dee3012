package trace

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"bulkhead/internal/attribution"
	"bulkhead/internal/bpf"
	"bulkhead/internal/cfi"
	"bulkhead/internal/dso"
	"bulkhead/internal/testenv"
)

// debugged is a program that gdb stops at each system call while it is traced: each call is walked three times, by gdb and
// by cfi over the stopped process, and by the kernel part when the call goes on.
type debugged struct {
	argv  []string
	stops int                         // 0: to its end
	load  func(ended <-chan struct{}) // runs beside it
}

// gdbStop is one line of testdata/frames.py. The first has the process only.
type gdbStop struct {
	PID       int
	TID       int
	Registers []uint64 // 0 to 15: as DWARF numbers them; rip; orig_rax
	Frames    []struct {
		IP       uint64
		Function string
		Signal   bool
	}
	End   string // why gdb's backtrace ends
	Error string // of the script
}

// place is the code that a frame is at: a file and an offset in it, or another mapping.
type place struct {
	object string
	offset uint32
}

// comparison is what came out, with the differences in words.
type comparison struct {
	stops, sameOrigin, sameObjects, samePlaces int
	frames                                     int
	cut                                        int    // backtraces that end in a guess of gdb's
	kernelStacks, kernelKnown                  int    // distinct stacks that the kernel part reported
	kernelCalls, kernelSameOrigin              uint64 // counts by (call, origin)
	differences                                []string
}

func (c *comparison) String() string {
	return fmt.Sprintf("%d calls, %d frames (%d backtraces cut at gdb's guess): same origin %s, same object frame by frame %s,"+
		" same address %s; kernel: same origin %s, stacks that gdb saw %s", c.stops, c.frames, c.cut, share(c.sameOrigin, c.stops), share(c.sameObjects, c.stops), share(c.samePlaces, c.stops),
		share(c.kernelSameOrigin, c.kernelCalls), share(c.kernelKnown, c.kernelStacks))
}

func share[N int | uint64](part, whole N) string {
	return fmt.Sprintf("%d/%d = %.2f %%", part, whole, 100*float64(part)/float64(max(whole, 1)))
}

func (c *comparison) add(d *comparison) {
	c.stops += d.stops
	c.sameOrigin += d.sameOrigin
	c.sameObjects += d.sameObjects
	c.samePlaces += d.samePlaces
	c.frames += d.frames
	c.cut += d.cut
	c.kernelStacks += d.kernelStacks
	c.kernelKnown += d.kernelKnown
	c.kernelCalls += d.kernelCalls
	c.kernelSameOrigin += d.kernelSameOrigin
}

// compareWithGDB runs a program under gdb and the tracer.
func compareWithGDB(t *testing.T, d debugged) *comparison {
	t.Helper()
	opts := options(t)
	opts.Follow = false
	g := startGDB(t, d)
	records, err := openRecords()
	if err != nil {
		t.Fatal(err)
	}
	s, err := newSession(opts, newRowReader(opts), records)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{
		session: s, conduits: opts.Conduits, tables: map[string]*cfi.Table{},
		calls: map[calledFrom]uint64{}, stacks: map[string]bool{},
	}
	first, ok := g.next(t)
	if !ok {
		t.Fatal("gdb did not start the program")
	}
	s.preload(first.PID, nil)
	if err := s.start(first.PID); err != nil {
		t.Fatal(err)
	}
	ended, idle := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(idle)
		if d.load != nil {
			d.load(ended)
		}
	}()
	for {
		stop, ok := g.next(t)
		if !ok {
			break
		}
		b.stop(t, stop)
	}
	g.wait(t)
	close(ended)
	<-idle
	if err := s.end(); err != nil {
		t.Error(err)
	}
	b.compareKernel(d.stops != 0)
	if err := s.close(); err != nil {
		t.Error(err)
	}
	return &b.comparison
}

// gdb is the running debugger.
type gdb struct {
	command *exec.Cmd
	lines   *bufio.Reader
	answers io.WriteCloser
	output  strings.Builder
	answer  bool
}

func startGDB(t *testing.T, d debugged) *gdb {
	t.Helper()
	stops := d.stops
	if stops == 0 {
		stops = 1 << 20
	}
	g := &gdb{command: exec.Command(testenv.Tool(t, "gdb"), append([]string{
		"-nx", "-batch", "-iex", "set auto-load off", "-iex", fmt.Sprintf("set $stops = %d", stops),
		"-x", source("frames.py"), "--args"}, d.argv...)...)}
	fromGDB, toUs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fromUs, toGDB, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	g.command.ExtraFiles = []*os.File{toUs, fromUs}
	g.command.Stdout, g.command.Stderr = &g.output, &g.output
	g.command.WaitDelay = 5 * time.Second
	if err := g.command.Start(); err != nil {
		t.Fatal(err)
	}
	toUs.Close()
	fromUs.Close()
	g.lines, g.answers = bufio.NewReaderSize(fromGDB, 1<<20), toGDB
	t.Cleanup(func() {
		toGDB.Close()
		fromGDB.Close()
	})
	return g
}

// next lets the program go on from the stop before and returns the next one.
func (g *gdb) next(t *testing.T) (stop gdbStop, ok bool) {
	t.Helper()
	if g.answer {
		fmt.Fprintln(g.answers, "go") // gdb that has ended is seen below
	}
	g.answer = true
	line, err := g.lines.ReadBytes('\n')
	if errors.Is(err, io.EOF) {
		return stop, false
	}
	if err == nil {
		err = json.Unmarshal(line, &stop)
	}
	if err == nil && stop.Error != "" {
		err = errors.New(stop.Error)
	}
	if err != nil {
		t.Fatalf("gdb: %v\n%s", err, g.output.String())
	}
	return stop, true
}

func (g *gdb) wait(t *testing.T) {
	t.Helper()
	if err := g.command.Wait(); err != nil {
		t.Errorf("gdb: %v\n%s", err, g.output.String())
	}
}

// calledFrom counts calls by number and origin.
type calledFrom struct {
	nr     uint32
	origin string
}

// bench holds the three walks of one program against each other.
type bench struct {
	comparison
	session  *session
	conduits attribution.Conduits
	tables   map[string]*cfi.Table
	calls    map[calledFrom]uint64 // as gdb sees them
	stacks   map[string]bool
}

// stop compares gdb's backtrace with our own walk of the same stopped process.
func (b *bench) stop(t *testing.T, stop gdbStop) {
	mapped, err := dso.Mappings(stop.PID)
	if err != nil {
		t.Fatal(err)
	}
	regs := cfi.Regs{GPR: [16]uint64(stop.Registers[:16]), IP: stop.Registers[16], InSyscall: true}
	walked, walkErr := cfi.Unwind(regs, cfi.NewProcessMemory(stop.PID), b.resolver(t, stop.PID, mapped), maxFrames)
	ours := make([]place, len(walked))
	for i, f := range walked {
		ours[i], _ = placeOf(mapped, f.PC)
	}
	theirs := b.gdbPlaces(mapped, stop)
	call := uint32(stop.Registers[17])
	origin := b.origin(theirs)
	b.calls[calledFrom{call, origin}]++
	b.stacks[stackKey(call, theirs)] = true

	b.stops++
	b.frames += len(theirs)
	same := func(equal func(a, b place) bool) int {
		if slices.EqualFunc(ours, theirs, equal) {
			return 1
		}
		return 0
	}
	if b.origin(ours) == origin {
		b.sameOrigin++
	}
	b.sameObjects += same(func(a, b place) bool { return a.object == b.object })
	all := same(func(a, b place) bool { return a == b })
	b.samePlaces += all
	if all == 0 {
		b.differ("call %d in thread %d: walk (%v):\n%s\ngdb (%s):\n%s", call, stop.TID, walkErr, placesText(ours, nil), stop.End,
			placesText(theirs, func(i int) string { return stop.Frames[i].Function }))
	}
}

// gdbPlaces cuts a backtrace where gdb guesses: where nothing tells it the caller, as in the loader's _start, it takes
// words off the stack for return addresses. What is not in executable memory is none.
func (b *bench) gdbPlaces(mapped []dso.Mapping, stop gdbStop) []place {
	var places []place
	exact := false
	for _, f := range stop.Frames {
		pc := f.IP
		if !exact {
			pc--
		}
		p, ok := placeOf(mapped, pc)
		if !ok {
			b.cut++
			break
		}
		places = append(places, p)
		exact = f.Signal
	}
	return places
}

func (b *bench) differ(format string, args ...any) {
	b.differences = append(b.differences, fmt.Sprintf(format, args...))
}

// resolver finds the rows of mapped files as the tracer's rows were made, but from the process's own files.
func (b *bench) resolver(t *testing.T, pid int, mapped []dso.Mapping) cfi.Resolver {
	return func(address uint64) (*cfi.Table, uint64, bool) {
		m, ok := mappingAt(mapped, address)
		if !ok {
			return nil, 0, false
		}
		obj := b.session.prepare(processMapping{pid: pid, mapping: mapping{0, m}})
		if obj == nil {
			t.Fatalf("%s cannot be read", m.File.Path)
		}
		<-obj.loaded
		return obj.table.get(), address - m.Start + m.Offset, true
	}
}

func mappingAt(mapped []dso.Mapping, address uint64) (dso.Mapping, bool) {
	for _, m := range mapped {
		if m.Start <= address && address < m.End {
			return m, true
		}
	}
	return dso.Mapping{}, false
}

func placeOf(mapped []dso.Mapping, address uint64) (p place, ok bool) {
	m, ok := mappingAt(mapped, address)
	switch {
	case !ok:
		return place{}, false
	case m.File.Path == attribution.VDSO:
		return place{attribution.VDSO, uint32(address - m.Start)}, true
	case m.File.Inode == 0:
		return place{object: attribution.Anonymous}, true
	}
	return place{m.File.Path, uint32(address - m.Start + m.Offset)}, true
}

// origin is the rule of DESIGN.md over objects.
func (b *bench) origin(stack []place) string {
	for _, p := range stack {
		if !b.conduits.Match(p.object) {
			return p.object
		}
	}
	if len(stack) == 0 {
		return attribution.Unknown
	}
	return stack[len(stack)-1].object
}

// compareKernel looks for the stacks that the kernel part reported among those that gdb saw, and for the counts. When gdb
// has killed the program, that was before the kernel part saw the last call.
func (b *bench) compareKernel(killed bool) {
	s := b.session
	counts := map[calledFrom]uint64{}
	for key, n := range s.tracer.Counts() {
		counts[calledFrom{key.Nr, b.objectName(key.Origin)}] += n
	}
	for key, n := range s.seen.counts {
		counts[calledFrom{key.Nr, b.objectName(key.Origin)}] += n
	}
	for _, from := range slices.SortedFunc(maps.Keys(counts), func(a, b calledFrom) int {
		return cmp.Or(cmp.Compare(a.nr, b.nr), cmp.Compare(a.origin, b.origin))
	}) {
		n, saw := counts[from], b.calls[from]
		b.kernelCalls += n
		b.kernelSameOrigin += min(n, saw)
		if n != saw && !(killed && n+1 == saw) {
			b.differ("call %d of %s: the kernel counted %d, gdb %d", from.nr, from.origin, n, saw)
		}
	}
	for from, saw := range b.calls {
		if counts[from] == 0 && !(killed && saw == 1) {
			b.differ("call %d of %s: the kernel counted none, gdb %d", from.nr, from.origin, saw)
		}
	}
	seen := map[string]bool{}
	for key, frames := range s.seen.examples {
		b.kernelStack(seen, key.Nr, frames)
	}
	for key, frames := range s.seen.chains {
		b.kernelStack(seen, key.nr, frames)
	}
}

func (b *bench) kernelStack(seen map[string]bool, call uint32, frames []bpf.Frame) {
	stack := make([]place, len(frames))
	for i, f := range frames {
		stack[i] = place{b.objectName(f), f.Offset}
	}
	key := stackKey(call, stack)
	if seen[key] {
		return
	}
	seen[key] = true
	b.kernelStacks++
	if b.stacks[key] {
		b.kernelKnown++
	} else {
		b.differ("call %d: a stack of the kernel that gdb has not seen:\n%s", call, placesText(stack, nil))
	}
}

func (b *bench) objectName(f bpf.Frame) string {
	if obj := b.session.objects.get(bpf.ObjectID(f.Object)); obj != nil {
		return obj.path
	}
	return attribution.Unknown
}

func stackKey(call uint32, stack []place) string {
	return fmt.Sprintf("%d\n%s", call, placesText(stack, nil))
}

func placesText(stack []place, name func(i int) string) string {
	var b strings.Builder
	for i, p := range stack {
		fmt.Fprintf(&b, "\t%s+%#x", p.object, p.offset)
		if name != nil {
			fmt.Fprintf(&b, " %s", name(i))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// report logs the figures and at most a few of the differences.
func (c *comparison) report(t *testing.T) {
	t.Helper()
	t.Log(c)
	const shown = 6
	for i, d := range c.differences {
		if i == shown {
			t.Logf("and %d more differences", len(c.differences)-shown)
			break
		}
		t.Log(d)
	}
}

// TestGDBFixtures: on our own programs every call has the same stack three times. Those of musl are not here: its libc has
// no call frame information, and without it gdb does not get out of the first frame.
func TestGDBFixtures(t *testing.T) {
	for _, v := range variants {
		if v.libc != "glibc" {
			continue
		}
		t.Run("shapes/"+v.name, func(t *testing.T) {
			program := fixtures.Build(t, v.name+"/shapes", v.compiler+" -pthread "+source("shapes.c"))
			checkEqual(t, debugged{argv: []string{program}})
		})
		if !v.shared || strings.Contains(v.compiler, "-no-pie") {
			continue
		}
		t.Run("callback/"+v.name, func(t *testing.T) {
			checkEqual(t, debugged{argv: []string{buildCallback(t, v.name, v.compiler)}})
		})
		t.Run("contexts/"+v.name, func(t *testing.T) {
			program := fixtures.Build(t, v.name+"/contexts", v.compiler+" "+source("contexts.c"))
			checkEqual(t, debugged{argv: []string{program}})
		})
		t.Run("threads/"+v.name, func(t *testing.T) {
			compiler := strings.Replace(v.compiler, "gcc", "g++", 1)
			program := fixtures.Build(t, v.name+"/threads", compiler+" -pthread "+source("threads.cpp"))
			checkEqual(t, debugged{argv: []string{program}})
		})
	}
	t.Run("plugins", func(t *testing.T) {
		// gdb reads call frame information when it needs it: too late where the file is gone.
		checkEqual(t, debugged{argv: append(buildPlugins(t), "leave their files alone")})
	})
}

func checkEqual(t *testing.T, d debugged) {
	t.Helper()
	c := compareWithGDB(t, d)
	c.report(t)
	if len(c.differences) > 0 || c.stops == 0 {
		t.Errorf("%d differences", len(c.differences))
	}
}

// gdbStops is how many calls of each real program are compared; BULKHEAD_GDB_STOPS sets another number.
const gdbStops = 700

// TestGDBPrograms: what the project promises for real programs.
func TestGDBPrograms(t *testing.T) {
	stops := gdbStops
	if text := os.Getenv("BULKHEAD_GDB_STOPS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("BULKHEAD_GDB_STOPS: %v", err)
		}
		stops = n
	}
	programs := map[string]func(t *testing.T) debugged{
		"cc1": cc1, "git": git, "nginx": nginx, "python3": python3, "redis-server": redis, "sqlite3": sqlite3,
	}
	var sum comparison
	compared := 0
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		t.Run(name, func(t *testing.T) {
			d := programs[name](t)
			d.stops = stops
			c := compareWithGDB(t, d)
			c.report(t)
			sum.add(c)
			compared++
		})
	}
	if compared < len(programs) {
		return // a program is missing, which has been said
	}
	t.Log("all:", &sum)
	if sum.stops < 500 {
		t.Errorf("only %d calls", sum.stops)
	}
	atLeast(t, "the same origin", sum.sameOrigin, sum.stops, 0.99)
	atLeast(t, "the same objects", sum.sameObjects, sum.stops, 0.98)
	atLeast(t, "the same origin in the kernel", sum.kernelSameOrigin, sum.kernelCalls, 0.99)
	atLeast(t, "stacks of the kernel that gdb saw", sum.kernelKnown, sum.kernelStacks, 0.98)
}

func atLeast[N int | uint64](t *testing.T, what string, part, whole N, least float64) {
	t.Helper()
	if float64(part) < least*float64(whole) {
		t.Errorf("%s: %s, want at least %.0f %%", what, share(part, whole), 100*least)
	}
}

func cc1(t *testing.T) debugged {
	path, err := exec.Command(testenv.Tool(t, "gcc"), "-print-prog-name=cc1").Output()
	if err != nil {
		t.Fatal(err)
	}
	return debugged{argv: []string{strings.TrimSpace(string(path)), "-quiet", "-O2", source("shapes.c"),
		"-o", filepath.Join(t.TempDir(), "shapes.s")}}
}

func git(t *testing.T) debugged {
	repository := t.TempDir()
	command := []string{testenv.Tool(t, "git"), "-C", repository, "-c", "user.name=n", "-c", "user.email=e@localhost"}
	copyFile(t, source("shapes.c"), filepath.Join(repository, "shapes.c"))
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}, {"commit", "-q", "-m", "first"}} {
		if said, err := exec.Command(command[0], append(command[1:], args...)...).CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v: %s", args[0], err, said)
		}
	}
	return debugged{argv: append(command, "--no-pager", "log", "--stat", "--patch")}
}

func python3(t *testing.T) debugged {
	return debugged{argv: []string{testenv.Tool(t, "/usr/bin/python3"), "-c", "import ssl,sqlite3,json"}}
}

func sqlite3(t *testing.T) debugged {
	return debugged{argv: []string{testenv.Tool(t, "sqlite3"), filepath.Join(t.TempDir(), "data"),
		"create table t(a, b); create index i on t(a); insert into t values(1, 2), (3, 4); begin;" +
			" insert into t select a + 4, b from t; commit; select sum(a) from t where a > 1; delete from t; vacuum;"}}
}

func redis(t *testing.T) debugged {
	port := freePort(t)
	benchmark := testenv.Tool(t, "redis-benchmark")
	return debugged{
		argv: []string{testenv.Tool(t, "redis-server"), "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir()},
		load: func(ended <-chan struct{}) {
			request(ended, port, func() {
				command := exec.Command(benchmark, "-p", port, "-n", "100000", "-c", "4", "-q", "-t", "set,get,lrange")
				if command.Start() == nil {
					<-ended
					_ = command.Process.Kill()
					_ = command.Wait()
				}
			})
		},
	}
}

func nginx(t *testing.T) debugged {
	port, folder := freePort(t), t.TempDir()
	path := testenv.Tool(t, "nginx")
	configuration := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error;
events {}
http {
	access_log %[1]s/access; client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
	gzip on; gzip_min_length 1; gzip_types *;
	server { listen 127.0.0.1:%[2]s; root %[1]s; }
}
`, folder, port)
	if err := os.WriteFile(filepath.Join(folder, "configuration"), []byte(configuration), 0o644); err != nil {
		t.Fatal(err)
	}
	copyFile(t, source("shapes.c"), filepath.Join(folder, "page"))
	return debugged{
		argv: []string{path, "-p", folder, "-c", filepath.Join(folder, "configuration")},
		load: func(ended <-chan struct{}) {
			request(ended, port, func() {
				answer, err := http.Get("http://127.0.0.1:" + port + "/page")
				if err == nil {
					_, _ = io.Copy(io.Discard, answer.Body)
					answer.Body.Close()
				}
			})
		},
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// request repeats a request to a server from when it listens to its end.
func request(ended <-chan struct{}, port string, once func()) {
	for {
		select {
		case <-ended:
			return
		case <-time.After(20 * time.Millisecond):
		}
		if c, err := net.DialTimeout("tcp", "127.0.0.1:"+port, time.Second); err == nil {
			c.Close()
			once()
		}
	}
}
