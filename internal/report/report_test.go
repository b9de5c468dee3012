package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"charm.land/lipgloss/v2"
	"github.com/google/go-cmp/cmp"

	"bulkhead/internal/attribution"
	"bulkhead/internal/stats"
	"bulkhead/internal/testenv"
)

var update = flag.Bool("update", false, "write the golden files anew")

// example has a complete program, one with every kind of loss, and one that
// only the analysis has seen.
func example() *attribution.Document {
	b := attribution.NewBuilder()
	addServer(b)
	addLossy(b)
	p := b.Program("/usr/bin/only-static", "", attribution.AMD64)
	o := p.Object("/usr/bin/only-static", "", "", false)
	for nr, name := range []string{"read", "write"} {
		p.Add(attribution.Observation{Call: attribution.Call{ABI: attribution.AMD64, NR: nr, Name: name},
			Origin: p.CompartmentOf(o), Evidence: attribution.Static, Via: name})
	}
	return b.Document()
}

func addServer(b *attribution.Builder) {
	p := b.Program("/usr/sbin/nginx", "1f2e3d4c5b6a", attribution.AMD64)
	nginx := p.Object("/usr/sbin/nginx", "1f2e3d4c5b6a", "", false)
	ssl := p.Object("/usr/lib/x86_64-linux-gnu/libssl.so.3", "", "", false)
	long := p.Object("/usr/lib/python3/_a_module_with_a_very_long_name.cpython-311-x86_64-linux-gnu.so", "", "", false)
	ld := p.Object("/lib64/ld-linux-x86-64.so.2", "", "", true)
	add := func(o attribution.ObjectID, nr int, name string, n uint64, via string, e attribution.Evidence) {
		p.Add(attribution.Observation{Call: attribution.Call{ABI: attribution.AMD64, NR: nr, Name: name},
			Origin: p.CompartmentOf(o), Count: n, Via: via, Evidence: e})
	}
	for i := range 40 {
		add(nginx, 100+i, fmt.Sprintf("call_number_%d", i), uint64(1000*i+1), "wrapper_of_the_call", attribution.Traced)
	}
	for _, via := range []string{"write", "__libc_write", "fputs", "fwrite", "printf"} {
		add(ssl, 1, "write", 250_000, via, attribution.Traced)
	}
	add(ssl, 1, "write", 0, "write", attribution.Static)
	add(ssl, 0, "read", 0, "read", attribution.Static)
	add(long, 3, "close", 1, "", attribution.Traced)
	add(ld, 9, "mmap", 20, "", attribution.Traced)
}

func addLossy(b *attribution.Builder) {
	p := b.Program("/tmp/hostile\x1b[31m\nname", "", attribution.AMD64)
	o := p.Object("/tmp/hostile\x1b[31m\nname", "", "", false)
	write := attribution.Call{ABI: attribution.AMD64, NR: 1, Name: "write"}
	p.Add(attribution.Observation{Call: write, Origin: p.CompartmentOf(o), Count: 9999, Evidence: attribution.Traced, Via: "evil\x07\u202e"})
	p.Add(attribution.Observation{Call: attribution.Call{ABI: attribution.I386, NR: 4, Name: "write"}, Count: 1, Evidence: attribution.Traced})
	p.LostEvents, p.BrokenStacks = 1234567, 1
	for i := range uint64(5) {
		p.AddUnresolved(attribution.Site{Object: o, Function: "dispatch", Offset: 16 * i})
	}
	p.AddOpenEnd(attribution.Site{Object: o, Offset: 0x1234}, "dlopen of a computed name")
}

// golden compares what was written with a file of testdata.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, got, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got), -update writes it anew:\n%s", path, diff)
	}
}

// TestStatsGolden: the measures as a table, and every figure, which has to be well-formed XML.
func TestStatsGolden(t *testing.T) {
	programs := stats.Of(example())
	var table bytes.Buffer
	if err := WriteStats(&table, programs, Options{Width: 100}); err != nil {
		t.Fatal(err)
	}
	golden(t, "stats.txt", table.Bytes())
	dir := t.TempDir()
	if err := WriteFigures(dir, programs); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	if err != nil || len(files) != 7 {
		t.Fatalf("%d figures, want 7: %v", len(files), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := xml.Unmarshal(data, new(struct{})); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if name := filepath.Base(file); strings.Contains(name, "nginx") || name == "reduction.svg" {
			golden(t, name, data)
		}
	}
}

func TestGolden(t *testing.T) {
	tests := []struct {
		file    string
		format  Format
		options Options
	}{
		{"table-80.txt", Table, Options{Width: 80}},
		{"table-120.txt", Table, Options{}},
		{"table-200.txt", Table, Options{Width: 200}},
		{"table-colour.txt", Table, Options{Width: 80, Colour: true}},
		{"wide.txt", Table, Options{Width: 80, Wide: true}},
		{"rows.csv", CSV, Options{}},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			var got bytes.Buffer
			if err := Write(&got, example(), tt.format, tt.options); err != nil {
				t.Fatal(err)
			}
			golden(t, tt.file, got.Bytes())
		})
	}
}

func TestJSONIsTheDocument(t *testing.T) {
	var got, want bytes.Buffer
	if err := Write(&got, example(), JSON, Options{}); err != nil {
		t.Fatal(err)
	}
	if err := example().Write(&want); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Error("the JSON report is not the document")
	}
}

// TestTableFits: no line is wider than the terminal, and no control character
// comes through from names.
func TestTableFits(t *testing.T) {
	for width := 80; width <= 250; width += 17 {
		var out bytes.Buffer
		if err := Write(&out, example(), Table, Options{Width: width}); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			line = strings.TrimSuffix(line, "\n")
			if n := lipgloss.Width(line); n > width || strings.ContainsAny(line, "\x1b\x07\u202e") {
				t.Errorf("width %d: %d columns: %q", width, n, line)
			}
		}
	}
}

// TestRows: each combination of a call's vias and evidence has one row, and the counts add up to the document's.
func TestRows(t *testing.T) {
	d := example()
	rows := CallRows(d)
	type key struct{ program, compartment, abi, syscall, via, evidence string }
	seen := make(map[key]bool)
	counts := make(map[string]uint64)
	for _, r := range rows {
		k := key{r.Program, r.Compartment, r.ABI, r.Syscall, r.Via, r.Evidence}
		if seen[k] {
			t.Errorf("two rows of %v", k)
		}
		seen[k] = true
		if r.Count != nil {
			counts[r.Program] += *r.Count
		}
		if r.Evidence == string(attribution.Static) && r.Count != nil {
			t.Errorf("%v has a count", k)
		}
	}
	want := 0
	for i := range d.Programs {
		p := &d.Programs[i]
		if counts[p.Path] != p.Calls() {
			t.Errorf("%s: counts add up to %d, want %d", p.Path, counts[p.Path], p.Calls())
		}
		for _, c := range p.Compartments {
			for _, s := range c.Syscalls {
				want += max(1, len(s.Via)) * len(s.Evidence)
			}
		}
	}
	if len(rows) != want {
		t.Errorf("%d rows, want %d", len(rows), want)
	}
}

// TestParquetReader: a reader of Parquet that has nothing to do with our writer finds the columns and rows of the CSV.
func TestParquetReader(t *testing.T) {
	root, err := testenv.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	module := filepath.Join(root, ".cache/npm/node_modules/hyparquet/src/index.js")
	if _, err := os.Stat(module); err != nil {
		testenv.Require(t, fmt.Errorf("hyparquet is missing, scripts/setup.sh installs it: %w", err))
	}
	node := testenv.Tool(t, "node")
	empty := &attribution.Document{Schema: attribution.Schema}
	for name, d := range map[string]*attribution.Document{"example": example(), "empty": empty} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "rows.parquet")
			if err := os.WriteFile(file, written(t, d, Parquet), 0o666); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(node, "testdata/rows.mjs", module, file).Output()
			if err != nil {
				t.Fatalf("%v: %s", err, err.(*exec.ExitError).Stderr)
			}
			var read struct {
				Columns []string
				Rows    [][]string
			}
			if err := json.Unmarshal(out, &read); err != nil {
				t.Fatal(err)
			}
			want, err := csv.NewReader(bytes.NewReader(written(t, d, CSV))).ReadAll()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, append([][]string{read.Columns}, read.Rows...)); diff != "" {
				t.Errorf("CSV and Parquet differ (-CSV +Parquet):\n%s", diff)
			}
		})
	}
}

// TestPage: the page loads nothing, its script is JavaScript, its data is that of the document, and no name gets out of
// it.
func TestPage(t *testing.T) {
	d := example()
	d.Programs[0].Compartments[0].Syscalls[0].Via = []string{"</script><script>alert(1)</script>"}
	text := string(written(t, d, HTML))
	for _, reference := range []string{"src=", "href=", "http:", "https:", "url(", "import"} {
		if strings.Contains(text, reference) {
			t.Errorf("the page contains %s", reference)
		}
	}
	scripts := regexp.MustCompile(`(?s)<script[^>]*>(.*?)</script>`).FindAllStringSubmatch(text, -1)
	if len(scripts) != 2 {
		t.Fatalf("%d scripts, want the data and the program", len(scripts))
	}
	var programs []pageProgram
	if err := json.Unmarshal([]byte(scripts[0][1]), &programs); err != nil {
		t.Fatal(err)
	}
	if len(programs) != len(d.Programs) || programs[0].Calls != d.Programs[0].Calls() || programs[0].CallsBy[0].By[0].Stack == nil {
		t.Errorf("the page's data is not the document's: %+v", programs[0])
	}
	file := filepath.Join(t.TempDir(), "page.js")
	if err := os.WriteFile(file, []byte(scripts[1][1]), 0o666); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(testenv.Tool(t, "node"), "--check", file).CombinedOutput(); err != nil {
		t.Errorf("node --check: %v\n%s", err, out)
	}
}

// TestParquetIsDeterministic: equal documents give equal bytes.
func TestParquetIsDeterministic(t *testing.T) {
	if !bytes.Equal(written(t, example(), Parquet), written(t, example(), Parquet)) {
		t.Error("two Parquet files of one document differ")
	}
}

func written(t *testing.T, d *attribution.Document, f Format) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Write(&out, d, f, Options{}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestPercent(t *testing.T) {
	for share, want := range map[float64]string{0: "0.0%", 0.0000001: "<0.1%", 0.5: "50.0%", 0.99999: ">99.9%", 1: "100.0%"} {
		if got := percent(share); got != want {
			t.Errorf("percent(%v) = %s, want %s", share, got, want)
		}
	}
}
