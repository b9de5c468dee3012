package analysis

import (
	"debug/elf"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"bulkhead/internal/attribution"
)

// programs lists the ELF programs of /usr/bin and /usr/sbin for this processor,
// each once.
func programs(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, dir := range []string{"/usr/bin", "/usr/sbin"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			path, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name()))
			if err != nil {
				continue
			}
			f, err := elf.Open(path)
			if err != nil {
				continue
			}
			if f.Machine == elf.EM_X86_64 {
				out = append(out, path)
			}
			f.Close()
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// sample draws n programs.
func sample(t *testing.T, n int, seed uint64) []string {
	t.Helper()
	list := programs(t)
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	list = list[:min(n, len(list))]
	slices.Sort(list)
	return list
}

// share is the mean over the compartments, conduits left out, of the size of
// their origin set by that of the union, and their number.
func share(p *attribution.Program) (mean float64, n int) {
	conduit := map[string]bool{}
	for _, o := range p.Objects {
		conduit[o.Compartment] = o.Conduit
	}
	sum := 0.0
	for _, c := range p.Compartments {
		if !conduit[c.Name] {
			sum += float64(len(c.Syscalls)) / float64(len(p.Union))
			n++
		}
	}
	return sum / float64(max(n, 1)), n
}

// measured are the programs whose sizes docs/analysis.md states, with the largest
// number of system calls that each may have, and the largest share.
var measured = []struct {
	path  string
	opts  Options
	calls int
	share float64
}{
	{"", Options{}, 45, 1},
	{"/usr/bin/ls", Options{}, 85, 1},
	{"/usr/bin/curl", Options{}, 125, 1},
	{"/usr/bin/redis-server", Options{}, 130, 0.35},
	{"/usr/sbin/nginx", Options{}, 122, 0.35},
	{"/usr/sbin/nginx", Options{LeaveOut: true}, 122, 1},
	{"/usr/bin/python3.11", Options{}, 205, 0.35},
}

// TestPrecise holds the sizes that docs/analysis.md states.
func TestPrecise(t *testing.T) {
	for _, m := range measured {
		if m.path == "" {
			m.path = build(t, "dynamic")
		}
		t.Run(filepath.Base(m.path), func(t *testing.T) {
			if _, err := os.Stat(m.path); err != nil {
				t.Skip(err)
			}
			m.opts.Summaries = testCache
			r, err := Analyze(m.path, m.opts)
			if err != nil {
				t.Fatal(err)
			}
			p := &r.Document().Programs[0]
			if !slices.ContainsFunc(p.Objects, func(o attribution.Object) bool { return o.Name == "libnss_systemd.so.2" }) {
				m.share += 0.02 // without systemd's name services the union is smaller, and each share greater
			}
			mean, n := share(p)
			t.Logf("%d system calls, %d compartments, share %.3f, plug-ins left out %t", len(p.Union), n, mean, m.opts.LeaveOut)
			if len(p.Union) > m.calls || mean > m.share {
				t.Errorf("more than %d system calls, or a share above %.2f: %v", m.calls, m.share, p.Union)
			}
		})
	}
}

// TestSample prints the mean number of system calls of programs drawn at random:
// BULKHEAD_SAMPLE=SEED,N.
func TestSample(t *testing.T) {
	var seed uint64
	var n int
	if _, err := fmt.Sscanf(os.Getenv("BULKHEAD_SAMPLE"), "%d,%d", &seed, &n); err != nil {
		t.Skip("BULKHEAD_SAMPLE=SEED,N draws programs")
	}
	total, complete, failed := 0, 0, 0
	list := sample(t, n, seed)
	for _, path := range list {
		r, err := Analyze(path, Options{Summaries: testCache})
		if err != nil {
			t.Logf("%s: %v", path, err)
			failed++
			continue
		}
		total += len(r.Union())
		if r.Document().Programs[0].Complete {
			complete++
		}
	}
	t.Logf("seed %d: %d programs, %d not analysed, %d complete, mean %.1f system calls",
		seed, len(list), failed, complete, float64(total)/float64(max(len(list)-failed, 1)))
}
