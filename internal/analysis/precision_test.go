package analysis

import (
	"debug/elf"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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

// share is the mean over the compartments that are charged with something of the
// size of their origin set by that of the union. Conduits are charged with what
// nobody else is; all says to count them too.
func share(p *attribution.Program, all bool) (mean float64, n int) {
	conduit := map[string]bool{}
	for _, o := range p.Objects {
		conduit[o.Compartment] = o.Conduit
	}
	sum := 0.0
	for _, c := range p.Compartments {
		if !all && conduit[c.Name] {
			continue
		}
		sum += float64(len(c.Syscalls)) / float64(len(p.Union))
		n++
	}
	return sum / float64(n), n
}

// TestPrecision prints the sizes of the results. BULKHEAD_PRECISION=SEED,N adds
// the mean over N programs drawn with the seed.
func TestPrecision(t *testing.T) {
	cfg := os.Getenv("BULKHEAD_PRECISION")
	if cfg == "" {
		t.Skip("BULKHEAD_PRECISION is not set")
	}
	cache, err := OpenCache(os.Getenv("BULKHEAD_PRECISION_CACHE"))
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string, opts Options) *attribution.Program {
		opts.Summaries = cache
		r, err := Analyze(path, opts)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return nil
		}
		return &r.Document().Programs[0]
	}
	for _, path := range []string{build(t, "dynamic"), "/usr/bin/ls", "/usr/bin/curl", "/usr/bin/redis-server", "/usr/sbin/nginx", "/usr/bin/python3.11"} {
		for _, leave := range []bool{false, true} {
			if p := get(path, Options{LeaveOut: leave}); p != nil {
				m, n := share(p, false)
				ma, na := share(p, true)
				fmt.Printf("%-14s leaveout=%-5t %4d   share %.3f (%d)  all %.3f (%d)\n", filepath.Base(path), leave, len(p.Union), m, n, ma, na)
			}
		}
	}
	seed, count, _ := strings.Cut(cfg, ",")
	s, _ := strconv.Atoi(seed)
	n, _ := strconv.Atoi(count)
	total, done := 0, 0
	freq := map[string]int{}
	for _, path := range sample(t, n, uint64(s)) {
		if p := get(path, Options{}); p != nil {
			total += len(p.Union)
			done++
			for _, u := range p.Union {
				freq[u]++
			}
			if os.Getenv("LIST") != "" {
				fmt.Printf("%s %d %v\n", path, len(p.Union), p.Complete)
			}
		}
	}
	if done > 0 {
		fmt.Printf("sample %s: %d programs, mean %.2f\n", cfg, done, float64(total)/float64(done))
		if os.Getenv("FREQ") != "" {
			var names []string
			for k := range freq {
				names = append(names, k)
			}
			slices.SortFunc(names, func(a, b string) int { return freq[b] - freq[a] })
			for _, k := range names {
				fmt.Printf("%s:%d ", k, freq[k])
			}
			fmt.Println()
		}
	}
}
