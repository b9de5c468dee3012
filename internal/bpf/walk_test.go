package bpf

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"bulkhead/internal/cfi"
)

// buildC compiles a program of testdata.
func buildC(t *testing.T, source string, flags ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	args := append([]string{"-Wall", "-o", out, filepath.Join("testdata", source)}, flags...)
	if b, err := exec.Command("gcc", args...).CombinedOutput(); errors.Is(err, exec.ErrNotFound) {
		t.Skip(err)
	} else if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, b)
	}
	return out
}

// TestWalk runs walk.h, as it is, in a process and wants it to find what cfi.Unwind finds.
func TestWalk(t *testing.T) {
	host := buildC(t, "walkhost/main.c", "-Itestdata/walkhost", "-Wno-unused-function", "-Wno-unknown-pragmas",
		"-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
	t.Run("live", func(t *testing.T) { testLiveWalks(t, host) })
	t.Run("hostile", func(t *testing.T) { testHostileWalks(t, host) })
	t.Run("random", func(t *testing.T) { testRandomWalks(t, host) })
	t.Run("search", func(t *testing.T) { testSearch(t, host) })
}

func testLiveWalks(t *testing.T, host string) {
	stacks := buildC(t, "stacks.c", "-O2", "-fomit-frame-pointer", "-pthread")
	tables := map[string]*cfi.Table{}
	for _, program := range []struct {
		threads, call int // so many are in this system call
		command       []string
	}{
		{8, unix.SYS_PAUSE, []string{stacks}},
		{1, unix.SYS_CLOCK_NANOSLEEP, []string{"/usr/bin/python3", "-c",
			"import json, time\ndef deep(n): sorted([n + 1], key=deep if n < 60 else lambda _: time.sleep(1000))\n" +
				"json.loads('[1]', parse_int=lambda _: deep(0))"}},
		{1, unix.SYS_EPOLL_WAIT, []string{"redis-server", "--port", "0", "--save", "", "--unixsocket", filepath.Join(t.TempDir(), "redis")}},
	} {
		t.Run(filepath.Base(program.command[0]), func(t *testing.T) {
			runtime.LockOSThread() // ptrace belongs to a thread
			defer runtime.UnlockOSThread()
			cmd := exec.Command(program.command[0], program.command[1:]...)
			if err := cmd.Start(); errors.Is(err, os.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
				t.Skip(err)
			} else if err != nil {
				t.Fatal(err)
			}
			defer endProcess(cmd)
			r := newRecording()
			r.pid = cmd.Process.Pid
			r.threads = stopThreads(t, r.pid, program.threads, program.call)
			r.mapProcess(t, tables)
			ends, deepest := map[traceWalkEnd]int{}, uint32(0)
			for _, w := range r.compare(t, host) {
				ends[traceWalkEnd(w.End)]++
				deepest = max(deepest, w.Depth)
			}
			t.Logf("%d threads, ends %v, %d frames at most, %d rows, %d pages", len(r.threads), ends, deepest, len(r.blocks)*blockRows, len(r.pages))
			want := map[traceWalkEnd]int{traceWalkEndWALK_OUTERMOST: len(r.threads)}
			if program.command[0] == stacks { // one of its threads is too deep
				want = map[traceWalkEnd]int{traceWalkEndWALK_OUTERMOST: 7, traceWalkEndWALK_DEPTH: 1}
			}
			if diff := cmp.Diff(want, ends); diff != "" {
				t.Errorf("ends of the walks:\n%s", diff)
			}
		})
	}
}

// stopThreads stops all threads of a process that are in a system call, as soon as n of them are in that one.
func stopThreads(t *testing.T, pid, n, call int) (threads []unix.PtraceRegs) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
		var tids []int
		in := 0
		for _, task := range tasks {
			b, _ := os.ReadFile(task)
			nr, _, _ := strings.Cut(string(b), " ")
			tid, _ := strconv.Atoi(filepath.Base(filepath.Dir(task)))
			if number, err := strconv.Atoi(nr); err == nil && number >= 0 {
				tids = append(tids, tid)
				if number == call {
					in++
				}
			}
		}
		if in >= n {
			for _, tid := range tids {
				if regs := stopThread(t, tid); int64(regs.Orig_rax) >= 0 { // it may have returned
					threads = append(threads, regs)
				}
			}
			return threads
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d threads are in system call %d, want %d", in, call, n)
		}
	}
}

func stopThread(t *testing.T, tid int) (regs unix.PtraceRegs) {
	t.Helper()
	var status unix.WaitStatus
	if err := errors.Join(unix.PtraceSeize(tid), unix.PtraceInterrupt(tid)); err != nil {
		t.Fatalf("stop thread %d: %v", tid, err)
	}
	if _, err := unix.Wait4(tid, &status, unix.WALL, nil); err != nil || !status.Stopped() {
		t.Fatalf("wait for thread %d: status %#x, %v", tid, status, err)
	}
	if err := unix.PtraceGetRegs(tid, &regs); err != nil {
		t.Fatal(err)
	}
	return regs
}

// endProcess lets go of the stopped threads first: the process would not be reaped before them.
func endProcess(cmd *exec.Cmd) {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", cmd.Process.Pid))
	for _, task := range tasks {
		tid, _ := strconv.Atoi(task.Name())
		unix.PtraceDetach(tid)
	}
	cmd.Process.Kill()
	cmd.Wait()
}

// The code and stack of synthetic recordings. The code of rule i is at codeBase + i*ruleSize, its file offset codeOffset
// more.
const (
	codeBase   = 0x400000
	codeOffset = 3 * pageSize
	ruleSize   = 256
	stackBase  = 0x7ffd00000000
)

// at is an address in the code of a rule.
func at(rule int) uint64 { return codeBase + uint64(rule)*ruleSize + 9 }

// syntheticRegions are those of the one object. Rows are in region 0 unless a test says otherwise.
var syntheticRegions = []RegionFlags{RegionConduit, RegionConduit, RegionConduit | RegionBase, 0}

// synthetic makes a recording of one object and one thread.
func synthetic(table *cfi.Table, stack []uint64, regs unix.PtraceRegs) *recording {
	r := newRecording()
	size := uint64(table.Rows[len(table.Rows)-1].Offset-codeOffset)&^(pageSize-1) + pageSize
	r.mappings = []recordedMapping{{codeBase, codeBase + size, codeOffset / pageSize, r.addObject(table, syntheticRegions...), recordedExec}}
	for i, b := 0, raw(stack); i == 0 || i < len(b); i += pageSize {
		p := new([pageSize]byte)
		copy(p[:], b[i:])
		r.pages[stackBase+uint64(i)] = p
	}
	r.threads = []unix.PtraceRegs{regs}
	return r
}

// ruleTable gives each rule its code.
func ruleTable(rules ...cfi.Rule) *cfi.Table {
	t := &cfi.Table{Rules: rules}
	for i := range rules {
		t.Rows = append(t.Rows, cfi.Row{Offset: uint32(codeOffset + i*ruleSize), Rule: uint16(i)})
	}
	return t
}

// from is CFA = reg + offset.
func from(reg uint8, offset int32) cfi.Rule {
	return cfi.Rule{CFA: cfi.KindRegister, Reg: reg, CFAOffset: offset, RAOffset: -8, RBPOffset: cfi.Same, RBXOffset: cfi.Same}
}

func with(r cfi.Rule, change func(*cfi.Rule)) cfi.Rule {
	change(&r)
	return r
}

// context is a signal frame's: see cfi.KindSignal.
func context(rbx, sp, ip uint64) []uint64 {
	return slices.Concat(make([]uint64, 16), []uint64{rbx, 0, 0, 0, sp, ip})
}

func testHostileWalks(t *testing.T, host string) {
	const (
		outermost, unmapped, stuck = traceWalkEndWALK_OUTERMOST, traceWalkEndWALK_UNMAPPED, traceWalkEndWALK_STUCK
		fault, depth, noRule       = traceWalkEndWALK_FAULT, traceWalkEndWALK_DEPTH, traceWalkEndWALK_RULE
		noRows, busy               = traceWalkEndWALK_NO_ROWS, traceWalkEndWALK_BUSY
	)
	type rules = []cfi.Rule
	var (
		none, end, signal = cfi.Rule{}, cfi.Rule{CFA: cfi.KindEnd}, cfi.Rule{CFA: cfi.KindSignal}
		call              = from(cfi.RegRSP, 8)
		loseRBP           = with(call, func(r *cfi.Rule) { r.RBPOffset = cfi.Undefined })
		loseRBX           = with(call, func(r *cfi.Rule) { r.RBXOffset = cfi.Undefined })
		down              = with(from(cfi.RegRSP, -8), func(r *cfi.Rule) { r.RAOffset = 8 })
		switched          = with(down, func(r *cfi.Rule) { r.Flags = cfi.StackSwitch })
		same              = with(from(cfi.RegRSP, 0), func(r *cfi.Rule) { r.RAOffset = 0 })
		deref             = with(from(cfi.RegRSP, 0), func(r *cfi.Rule) { r.CFA = cfi.KindDeref })
		farRA             = with(call, func(r *cfi.Rule) { r.RAOffset = math.MinInt32 + 2 })
		inRegister        = with(call, func(r *cfi.Rule) { r.Flags, r.RAOffset = cfi.RAInRegister, 5 })
		inR9              = with(call, func(r *cfi.Rule) { r.Flags, r.RAOffset = cfi.RAInRegister, 9 })
		strange           = with(call, func(r *cfi.Rule) { r.Reg = 255 })
		savedAtRBP        = with(call, func(r *cfi.Rule) { r.Flags, r.RBPOffset = cfi.RBPAtRBP, 0 })
	)
	calls := func(n int, last uint64) []uint64 { return append(slices.Repeat([]uint64{at(0)}, n), last) }
	file := func(id ObjectID, flags uint32) func(*recording) {
		return func(r *recording) {
			r.mappings = append(r.mappings, recordedMapping{0x800000, 0x900000, 0, id, flags})
		}
	}
	object := func(change func(*traceObject)) func(*recording) {
		return func(r *recording) { change(&r.objects[len(r.objects)-1]) }
	}
	row := func(n int, offset uint32, rule uint16) func(*recording) {
		return func(r *recording) { r.blocks[0].Rows[n].Offset, r.blocks[0].Rows[n].Rule = offset, rule }
	}
	tests := []struct {
		name   string
		rules  rules
		stack  []uint64
		regs   unix.PtraceRegs  // zero Rip and Rsp: the first rule's code, the stack's first word
		change func(*recording) // by what cfi does not know: then walk.h walks alone
		end    traceWalkEnd
		depth  int
	}{
		{"zero return address", rules{call}, calls(1, 0), unix.PtraceRegs{}, nil, outermost, 2},
		{"zero return address by frame pointer", rules{none}, []uint64{1, 0}, unix.PtraceRegs{Rbp: stackBase}, nil, outermost, 1},
		{"zero frame pointer", rules{none}, nil, unix.PtraceRegs{}, nil, outermost, 1},
		{"outermost by rule", rules{call, end}, []uint64{at(1)}, unix.PtraceRegs{}, nil, outermost, 2},
		{"as many frames as there is room for", rules{call}, calls(maxFrames-1, 0), unix.PtraceRegs{}, nil, outermost, maxFrames},
		{"one frame more", rules{call}, calls(maxFrames, 0), unix.PtraceRegs{}, nil, depth, maxFrames},
		{"CFA that stays where it is", rules{same}, calls(1, 0), unix.PtraceRegs{}, nil, depth, maxFrames},
		{"stacks switched in a circle", rules{switched, from(cfi.RegRSP, 8)}, []uint64{at(0), at(1)}, unix.PtraceRegs{Rsp: stackBase + 8}, nil, depth, maxFrames},
		{"signal frame of itself", rules{signal}, context(0, stackBase, at(0)), unix.PtraceRegs{}, nil, depth, maxFrames},
		{"frame pointer to itself", rules{none}, []uint64{stackBase, at(0)}, unix.PtraceRegs{Rbp: stackBase}, nil, stuck, 2},
		{"frame pointer below the stack", rules{none}, nil, unix.PtraceRegs{Rbp: stackBase - 8}, nil, stuck, 1},
		{"frame pointer to no word", rules{none}, nil, unix.PtraceRegs{Rbp: stackBase + 4}, nil, stuck, 1},
		{"frame pointer to no memory", rules{none}, nil, unix.PtraceRegs{Rbp: stackBase + 1<<20}, nil, fault, 1},
		{"CFA goes down", rules{down}, calls(2, 0), unix.PtraceRegs{}, nil, stuck, 1},
		{"CFA beyond the last address", rules{from(cfi.RegRSP, math.MaxInt32)}, nil, unix.PtraceRegs{Rsp: math.MaxUint64}, nil, stuck, 1},
		{"return address far away", rules{farRA}, calls(2, 0), unix.PtraceRegs{}, nil, fault, 1},
		{"stack ends", rules{call}, calls(pageSize/8-1, at(0)), unix.PtraceRegs{}, nil, fault, pageSize/8 + 1},
		{"stack ends in a word", rules{call}, calls(9, 0), unix.PtraceRegs{Rsp: stackBase + pageSize - 4}, nil, fault, 1},
		{"word over the last address", rules{same}, nil, unix.PtraceRegs{Rsp: math.MaxUint64 - 3}, nil, fault, 1},
		{"CFA read from nowhere", rules{deref}, nil, unix.PtraceRegs{Rsp: 8}, nil, fault, 1},
		{"CFA read below the stack", rules{deref}, []uint64{stackBase - 8}, unix.PtraceRegs{}, nil, stuck, 1},
		{"rbp saved nowhere", rules{savedAtRBP, from(cfi.RegRBP, 16)}, []uint64{at(1)}, unix.PtraceRegs{Rbp: 8}, nil, fault, 2},
		{"signal frame that ends", rules{signal}, nil, unix.PtraceRegs{Rsp: stackBase + pageSize - 168}, nil, fault, 1},
		{"signal at address zero", rules{signal}, context(0, stackBase, 0), unix.PtraceRegs{}, nil, unmapped, 1},
		{"rbx behind a signal frame", rules{signal, from(cfi.RegRBX, 8)}, context(stackBase+22*8, stackBase, at(1)), unix.PtraceRegs{}, nil, outermost, 2},
		{"undefined rbp", rules{loseRBP, from(cfi.RegRBP, 16)}, []uint64{at(1)}, unix.PtraceRegs{Rbp: stackBase}, nil, noRule, 2},
		{"undefined rbp and no rows", rules{loseRBP, none}, []uint64{at(1)}, unix.PtraceRegs{Rbp: stackBase}, nil, noRule, 2},
		{"undefined rbx", rules{loseRBX, from(cfi.RegRBX, 8)}, []uint64{at(1)}, unix.PtraceRegs{Rbx: stackBase}, nil, noRule, 2},
		{"rbx behind a frame pointer", rules{none, from(cfi.RegRBX, 8)}, []uint64{0, at(1)}, unix.PtraceRegs{Rbp: stackBase, Rbx: stackBase}, nil, noRule, 2},
		{"register that is not tracked", rules{call, from(10, 8)}, []uint64{at(1)}, unix.PtraceRegs{R10: stackBase}, nil, noRule, 2},
		{"register that is none", rules{strange}, nil, unix.PtraceRegs{}, nil, noRule, 1},
		{"unmapped return address", rules{call}, []uint64{0x123456}, unix.PtraceRegs{}, nil, unmapped, 1},
		{"return address behind the code", rules{call}, []uint64{codeBase + pageSize + 1}, unix.PtraceRegs{}, nil, unmapped, 1},
		{"unmapped first address", rules{call}, nil, unix.PtraceRegs{Rip: 1}, nil, unmapped, 0},

		{"return address into data", rules{call}, []uint64{0x800001}, unix.PtraceRegs{}, file(3, 0), unmapped, 1},
		{"return address into anonymous code", rules{call}, []uint64{0x800001}, unix.PtraceRegs{}, file(ObjectAnonymous, recordedExec), outermost, 2},
		{"return address into the vDSO", rules{call}, []uint64{0x800001}, unix.PtraceRegs{}, file(ObjectVDSO, recordedExec), outermost, 2},
		{"file never seen", rules{call}, []uint64{0x800001}, unix.PtraceRegs{}, file(4, recordedExec), noRows, 1},
		{"address space that is locked", rules{call}, []uint64{0x800001}, unix.PtraceRegs{}, file(3, recordedExec|recordedBusy), busy, 1},
		{"object not ready", rules{call}, nil, unix.PtraceRegs{}, object(func(o *traceObject) { o.Flags = 0 }), noRows, 0},
		{"return address in a register", rules{inRegister, call}, calls(1, 0), unix.PtraceRegs{Rdi: at(1)}, nil, outermost, 2},
		{"return address in a register above frame 0", rules{inRegister}, nil, unix.PtraceRegs{Rdi: at(0)}, nil, noRule, 2},
		{"return address in a register that is not kept", rules{inR9}, nil, unix.PtraceRegs{R9: at(0)}, object(func(*traceObject) {}), noRule, 1},
		{"CFA in r10", rules{from(10, 8)}, calls(1, 0), unix.PtraceRegs{R10: stackBase}, object(func(*traceObject) {}), noRule, 1},
		{"blocks behind the last shard", rules{call}, nil, unix.PtraceRegs{}, object(func(o *traceObject) { o.FirstBlock, o.Blocks = math.MaxUint32, math.MaxUint32 }), outermost, 1},
		{"more blocks than there are", rules{call}, calls(1, 0), unix.PtraceRegs{}, object(func(o *traceObject) { o.Blocks = math.MaxUint32 }), outermost, 2},
		{"rows that descend", rules{call, call, call}, calls(1, 0), unix.PtraceRegs{}, row(1, 0, 1), outermost, 2},
		{"before the first row", rules{call}, calls(1, 0), unix.PtraceRegs{}, row(0, codeOffset+ruleSize, 1), outermost, 1},
		{"rule that does not exist", rules{call}, nil, unix.PtraceRegs{}, row(0, codeOffset, math.MaxUint16), outermost, 1},
		{"rule of no kind", rules{call}, calls(1, 0), unix.PtraceRegs{}, func(r *recording) { r.rules[1].Kind = 255 }, outermost, 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.regs.Rip == 0 {
				test.regs.Rip = at(0)
			}
			if test.regs.Rsp == 0 {
				test.regs.Rsp = stackBase
			}
			r := synthetic(ruleTable(test.rules...), test.stack, test.regs)
			var w traceWalk
			if test.change == nil {
				w = r.compare(t, host)[0]
			} else {
				test.change(r)
				w = r.walk(t, host)[0].cold
			}
			if w.End != uint8(test.end) || int(w.Depth) != test.depth {
				t.Errorf("end %d after %d frames, want %d after %d", w.End, w.Depth, test.end, test.depth)
			}
			if test.end == noRows && int(w.Missing) != 3+test.depth {
				t.Errorf("the rows of object %d are missed, want %d", w.Missing, 3+test.depth)
			}
		})
	}
}

// testRandomWalks walks stacks of nonsense by rules of nonsense.
func testRandomWalks(t *testing.T, host string) {
	rng := rand.New(rand.NewPCG(13, 2))
	offset := func() int32 {
		if rng.IntN(10) == 0 {
			return []int32{cfi.Same, cfi.Undefined, cfi.Undefined, math.MaxInt32, -3}[rng.IntN(5)]
		}
		return int32(rng.IntN(16)-4) * 8
	}
	regs := []uint8{cfi.RegRSP, cfi.RegRSP, cfi.RegRSP, cfi.RegRBP, cfi.RegRBX}
	rules := []cfi.Rule{{}, {CFA: cfi.KindEnd}, {CFA: cfi.KindSignal}}
	for len(rules) < 64 {
		r := cfi.Rule{CFA: cfi.KindRegister + cfi.CFAKind(rng.IntN(2)), Reg: regs[rng.IntN(len(regs))], CFAOffset: offset(), CFAExtra: offset(),
			RAOffset: -8, RBPOffset: offset(), RBXOffset: offset()}
		if rng.IntN(8) == 0 {
			r.CFA, r.Reg, r.CFAExtra = cfi.KindPLT, cfi.RegRSP, int32(rng.IntN(18)-1)
		}
		if rng.IntN(4) == 0 {
			r.Flags = []cfi.Flags{cfi.RBPAtRBP, cfi.RBXAtRBP, cfi.StackSwitch, cfi.Interrupted}[rng.IntN(4)]
		}
		rules = append(rules, r)
	}
	stack := make([]uint64, 16*pageSize/8)
	for i := range stack {
		switch n := rng.IntN(100); {
		case n < 60:
			stack[i] = codeBase + rng.Uint64N(uint64(len(rules)*ruleSize))
		case n < 95:
			stack[i] = stackBase + rng.Uint64N(uint64(len(stack)))*8
		default:
			stack[i] = rng.Uint64() >> rng.IntN(64)
		}
	}
	table := ruleTable(rules...)
	for i := range table.Rows {
		table.Rows[i].Region = uint16(rng.IntN(len(syntheticRegions)))
	}
	r := synthetic(table, stack, unix.PtraceRegs{})
	other := recordedMapping{codeBase + 3*pageSize, codeBase + 4*pageSize, codeOffset / pageSize, r.addObject(ruleTable(rules[3:]...), 0), recordedExec}
	r.mappings[0].end = other.start
	r.mappings = append(r.mappings, other)
	r.threads = make([]unix.PtraceRegs, 500)
	for i := range r.threads {
		word := func() uint64 { return stackBase + rng.Uint64N(uint64(len(stack)))*8 }
		r.threads[i] = unix.PtraceRegs{Rip: at(rng.IntN(len(rules))), Rsp: word(), Rbp: word(), Rbx: word()}
	}
	ends, frames := map[uint8]int{}, uint32(0)
	for _, w := range r.compare(t, host) {
		ends[w.End]++
		frames += w.Depth
	}
	t.Logf("%d frames, ends %v", frames, ends)
	if frames < 1000 || len(ends) < 5 {
		t.Error("the stacks are too dull to tell anything")
	}
}

// testSearch looks up return addresses in a table of more than one shard.
func testSearch(t *testing.T, host string) {
	rng := rand.New(rand.NewPCG(3, 4))
	table := &cfi.Table{Rules: []cfi.Rule{from(cfi.RegRSP, 8), from(cfi.RegRSP, 16), from(cfi.RegRSP, 24)}}
	offset := uint32(codeOffset)
	for range shardBlocks*blockRows + 1000 {
		table.Rows = append(table.Rows, cfi.Row{Offset: offset, Rule: uint16(rng.IntN(len(table.Rules)))})
		offset += 1 + rng.Uint32N(8)
	}
	stack := make([]uint64, 3*maxFrames)
	for i := range stack {
		stack[i] = codeBase + 1 + rng.Uint64N(uint64(offset-codeOffset))
		if block := rng.IntN(2 * shardBlocks); block < shardBlocks { // at its first row
			stack[i] = codeBase + 1 + uint64(table.Rows[block*blockRows].Offset-codeOffset)
		}
	}
	r := synthetic(table, stack, unix.PtraceRegs{})
	r.threads = nil
	for i := range uint64(10) {
		r.threads = append(r.threads, unix.PtraceRegs{Rip: at(0), Rsp: stackBase + i*8})
	}
	for _, w := range r.compare(t, host) {
		if w.Depth < 500 {
			t.Errorf("%d frames", w.Depth)
		}
	}
}
