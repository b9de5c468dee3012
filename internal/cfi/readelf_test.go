package cfi

import (
	"bufio"
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// loadEhFrame parses a real file's .eh_frame independently of package objfile.
func loadEhFrame(t testing.TB, path string) (*ehFrame, segments) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		if os.IsNotExist(err) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	defer f.Close()
	s := f.Section(".eh_frame")
	data, err := s.Data()
	if err != nil {
		t.Fatal(err)
	}
	e, err := parseEhFrame(data, s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	var segs segments
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Flags&elf.PF_X != 0 {
			segs = append(segs, segment{p.Vaddr, p.Off, p.Filesz})
		}
	}
	return e, segs
}

// TestReadelf compares every row with what binutils says that the section means.
func TestReadelf(t *testing.T) {
	if _, err := exec.LookPath("readelf"); err != nil {
		t.Skip(err)
	}
	for _, path := range []string{
		"/lib/x86_64-linux-gnu/libc.so.6",
		"/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
		"/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
		"/usr/lib/x86_64-linux-gnu/libgcrypt.so.20",
		"/usr/bin/redis-server",
	} {
		t.Run(filepath.Base(path), func(t *testing.T) {
			e, segs := loadEhFrame(t, path)
			e.locate(segs)
			table := e.build(nil)
			cmd := exec.Command("readelf", "--debug-dump=frames-interp", "--wide", path)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			r := readelfRows{t: t, table: table, segs: segs}
			r.read(bufio.NewScanner(out))
			cmd.Wait() // status 1 also stands for a warning
			if r.compared < 1000 {
				t.Errorf("only %d rows compared", r.compared)
			}
			t.Logf("%d rows of readelf agree; table: %d rows, %d rules, %d losses %v", r.compared, len(table.Rows), len(table.Rules), len(table.Losses), table.Losses)
		})
	}
}

// TestReadelfGo compares the rows from pclntab with the CFA in .debug_frame, which Go writes into unstripped programs.
func TestReadelfGo(t *testing.T) {
	if _, err := exec.LookPath("readelf"); err != nil {
		t.Skip(err)
	}
	path := buildGo(t, "gochain", []string{"CGO_ENABLED=0"})
	f := openFile(t, path)
	table, err := Build(f)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("readelf", "--debug-dump=frames-interp", "--wide", path).Output()
	if len(out) == 0 {
		t.Fatal(err)
	}
	r := readelfRows{t: t, table: table, segs: executable(f), isGo: true}
	r.read(bufio.NewScanner(bytes.NewReader(out)))
	if r.compared < 10000 || r.leftOut > 100 {
		t.Errorf("%d rows compared, %d left out", r.compared, r.leftOut)
	}
}

// readelfRows reads the interpreted dump: a header for each entry, then a line of column names, then rows. Rows hold to
// the next row or to the end of the entry.
type readelfRows struct {
	t        *testing.T
	table    *Table
	segs     segments
	columns  []string
	cie      map[string][]string // offset of a CIE to its row without the location, for FDEs that print none
	cieCols  map[string][]string
	current  string
	isFDE    bool
	rows     int
	begin    uint64
	fdeCIE   string
	compared int
	// isGo: leave out what package runtime does with stacks, which Go's tables do not describe.
	isGo    bool
	leftOut int
}

func (r *readelfRows) read(in *bufio.Scanner) {
	r.cie, r.cieCols = map[string][]string{}, map[string][]string{}
	for in.Scan() {
		fields := strings.Fields(in.Text())
		switch {
		case len(fields) >= 4 && fields[3] == "CIE":
			r.endFDE()
			r.current, r.isFDE = fields[0], false
		case len(fields) >= 4 && fields[3] == "FDE":
			r.endFDE()
			r.isFDE, r.rows = true, 0
			for _, f := range fields {
				if s, ok := strings.CutPrefix(f, "cie="); ok {
					r.fdeCIE = s
				}
				if s, ok := strings.CutPrefix(f, "pc="); ok {
					from, _, _ := strings.Cut(s, "..")
					r.begin, _ = strconv.ParseUint(from, 16, 64)
				}
			}
		case len(fields) > 2 && fields[0] == "LOC":
			r.columns = fields[1:]
		case len(fields) == len(r.columns)+1 && len(fields[0]) == 16:
			if !r.isFDE {
				r.cie[r.current], r.cieCols[r.current] = fields[1:], r.columns
				continue
			}
			loc, err := strconv.ParseUint(fields[0], 16, 64)
			if err != nil {
				continue
			}
			r.rows++
			r.row(loc, r.columns, fields[1:])
		}
	}
	r.endFDE()
}

func (r *readelfRows) endFDE() {
	if r.isFDE && r.rows == 0 {
		r.row(r.begin, r.cieCols[r.fdeCIE], r.cie[r.fdeCIE])
	}
	r.isFDE = false
}

func (r *readelfRows) row(loc uint64, columns, values []string) {
	seg, ok := r.segs.at(loc)
	if !ok {
		return
	}
	offset := loc - seg.vaddr + seg.offset
	got := r.table.Lookup(offset)
	if r.isGo && (got.CFA != KindRegister || got.Flags&StackSwitch != 0) {
		r.leftOut++
		return
	}
	r.compared++
	lost := slices.ContainsFunc(r.table.Losses, func(l Loss) bool { return l.Begin <= offset && offset < l.End })
	if lost != (got.CFA == KindNone) {
		r.t.Errorf("%#x: rule %+v, in the list of losses: %v", loc, got, lost)
	}
	for i, column := range columns {
		want := values[i]
		ok := true
		switch column {
		case "CFA":
			ok = sameCFA(got, want)
		case "rbx":
			ok = sameRegister(got, got.RBXOffset, want)
		case "rbp":
			ok = sameRegister(got, got.RBPOffset, want)
		case "ra":
			ok = sameReturnAddress(got, want)
		}
		if !ok {
			r.t.Errorf("%#x: %s is %s, table has %+v", loc, column, want, got)
		}
	}
}

var dwarfNames = []string{"rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"}

func sameCFA(r Rule, want string) bool {
	switch {
	case r.CFA == KindEnd:
		return true
	case want == "exp":
		return r.CFA == KindPLT || r.CFA == KindDeref || r.CFA == KindSignal || r.CFA == KindNone
	case r.CFA == KindNone: // a loss
		return true
	}
	return r.CFA == KindRegister && want == fmt.Sprintf("%s%+d", dwarfNames[r.Reg], r.CFAOffset)
}

func sameRegister(r Rule, offset int32, want string) bool {
	if r.CFA != KindRegister && r.CFA != KindDeref && r.CFA != KindPLT {
		return true
	}
	switch {
	case want == "u", want == "s":
		return offset == Same
	case want == "exp":
		return offset != Same
	case strings.HasPrefix(want, "c"):
		return want == fmt.Sprintf("c%+d", offset)
	}
	return offset == Undefined // another register
}

func sameReturnAddress(r Rule, want string) bool {
	switch {
	case want == "u":
		return r.CFA == KindEnd
	case want == "exp":
		return r.CFA == KindSignal
	case r.CFA == KindNone:
		return true
	case strings.HasPrefix(want, "c"):
		return r.Flags&RAInRegister == 0 && want == fmt.Sprintf("c%+d", r.RAOffset)
	}
	return r.Flags&RAInRegister != 0 && want == dwarfNames[r.RAOffset]
}

var benchmarkFiles = []string{
	"/lib/x86_64-linux-gnu/libc.so.6",
	"/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
	"/usr/lib/gcc/x86_64-linux-gnu/12/cc1",
	"/usr/lib/x86_64-linux-musl/libc.so",
	"/usr/local/go/bin/go",
}

// BenchmarkBuild opens a file and makes its table.
func BenchmarkBuild(b *testing.B) {
	for _, path := range benchmarkFiles {
		b.Run(filepath.Base(path), func(b *testing.B) {
			b.ReportAllocs()
			var table *Table
			for b.Loop() {
				f := openFile(b, path)
				var err error
				if table, err = Build(f); err != nil {
					b.Fatal(err)
				}
				f.Close()
			}
			b.ReportMetric(float64(len(table.Rows)), "rows")
			b.ReportMetric(float64(len(table.Rules)), "rules")
		})
	}
}
