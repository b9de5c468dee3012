package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bulkhead/internal/analysis"
	"bulkhead/internal/attribution"
	"bulkhead/internal/testenv"
)

// A comparison holds the analyses that traces are compared with.
type comparison struct {
	binary   string // bulkhead, for tracing
	cache    *analysis.Cache
	mu       sync.Mutex
	compared map[string]bool // pairs, by program
}

func newComparison(t *testing.T, cacheDir string) *comparison {
	t.Helper()
	if os.Geteuid() != 0 {
		testenv.Require(t, errors.New("tracing needs root"))
	}
	cache, err := analysis.OpenCache(cacheDir)
	if err != nil {
		t.Fatal(err)
	}
	return &comparison{binary: filepath.Join(publicProgram(t), "bulkhead"), cache: cache, compared: map[string]bool{}}
}

// trace returns the document of a command. While it runs, load is called, if it is
// not nil; the command has to end after it.
func (c *comparison) trace(t *testing.T, limit time.Duration, load func(), command ...string) *attribution.Document {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	out := filepath.Join(t.TempDir(), "trace.json")
	cmd := exec.CommandContext(ctx, c.binary, append([]string{"trace", "-o", "json", "--out", out, "--"}, command...)...)
	cmd.WaitDelay = time.Second
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if load != nil {
		load()
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == exitOwnFailure {
		testenv.Require(t, fmt.Errorf("this machine cannot trace: %s", said.String()))
	}
	doc, err := attribution.ReadFile(out)
	if err != nil {
		t.Fatalf("nothing was recorded: %v\n%s", err, said.String())
	}
	return doc
}

// compare reports the (compartment, system call) pairs of traced programs that the
// analysis of their files does not have.
func (c *comparison) compare(t *testing.T, traced *attribution.Document) {
	t.Helper()
	for i := range traced.Programs {
		p := &traced.Programs[i]
		if strings.HasPrefix(p.Path, "/memfd:") || c.known(p) {
			continue // a program in memory has no file
		}
		missing, err := c.uncovered(p)
		if err != nil {
			t.Errorf("%s: %v", p.Path, err)
		}
		for _, m := range missing {
			t.Error("traced, not in the analysis:", m)
		}
	}
}

// known reports whether all pairs of a traced program have been compared before.
func (c *comparison) known(p *attribution.Program) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := true
	for _, k := range p.Compartments {
		for _, s := range k.Syscalls {
			pair := p.Path + "\x00" + k.Name + "\x00" + s.Label(p.Arch)
			known = known && c.compared[pair]
			c.compared[pair] = true
		}
	}
	return known
}

// uncovered lists the pairs that are missing. Libraries that the program opened by
// names which the analysis reported as open are given to it.
func (c *comparison) uncovered(p *attribution.Program) ([]string, error) {
	opts := analysis.Options{Summaries: c.cache}
	doc, err := analysis.Document(p.Path, opts)
	if err != nil {
		return nil, err
	}
	missing := pairsMissing(p, &doc.Programs[0])
	if len(missing) == 0 || len(doc.Programs[0].Losses.OpenEnds) == 0 {
		return missing, nil
	}
	for _, o := range p.Objects {
		if strings.HasPrefix(o.Path, "/") {
			opts.Loading.With = append(opts.Loading.With, o.Path) // no news of what is loaded at the start
		}
	}
	if doc, err = analysis.Document(p.Path, opts); err != nil {
		return nil, err
	}
	return pairsMissing(p, &doc.Programs[0]), nil
}

func pairsMissing(traced, static *attribution.Program) []string {
	var out []string
	for _, c := range traced.Compartments {
		have := static.Compartment(c.Name)
		for _, s := range c.Syscalls {
			same := func(x attribution.Syscall) bool { return x.Name == s.Name && x.ABI == s.ABI }
			if have != nil && slices.ContainsFunc(have.Syscalls, same) || unresolved(static, s.Example) {
				continue
			}
			out = append(out, fmt.Sprintf("%s: %s %s %v", traced.Path, c.Name, s.Label(traced.Arch), s.Example))
		}
	}
	return out
}

// unresolved reports whether the analysis says of the instruction that made a call
// that it does not know the number. The frame's address is within the instruction.
func unresolved(static *attribution.Program, stack []attribution.Frame) bool {
	return len(stack) > 0 && slices.ContainsFunc(static.Losses.UnresolvedSites, func(site attribution.Frame) bool {
		at := stack[0]
		return site.Object == at.Object && site.Function == at.Function && at.Offset-site.Offset < 2
	})
}

// TestAnalyzeCoversTrace traces programs under a real load and compares pair by
// pair.
func TestAnalyzeCoversTrace(t *testing.T) {
	c := newComparison(t, t.TempDir())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello\n") }))
	defer server.Close()
	work := t.TempDir()
	for name, script := range map[string]string{
		"ls":      `ls -laR /etc >/dev/null`,
		"curl":    `curl -s -o out -H "A: b" ` + server.URL + `; curl -s http://localhost:1/; curl -s file:///etc/passwd -o out2`,
		"sqlite3": `sqlite3 x.db "pragma journal_mode=wal; create table t(a); insert into t values(1); select * from t; vacuum"`,
		"python3": `python3 -c '
import ssl, sqlite3, json, subprocess, threading, tempfile, socket, os, time
subprocess.run(["true"])
t = threading.Thread(target=time.sleep, args=(0.01,)); t.start(); t.join()
with tempfile.TemporaryDirectory() as d: open(d + "/f", "w").write("x")
a, b = socket.socketpair(); a.send(b"x"); b.recv(1)
socket.getaddrinfo("localhost", 80)
ssl.create_default_context(); sqlite3.connect(":memory:").execute("select 1"); os.listdir("/")'`,
		"git": `git init -q r; cd r; echo x >f; git add f
git -c user.name=n -c user.email=e commit -qm x; git log --stat | cat; git gc -q; git status`,
		"gcc": `echo '#include <stdio.h>
int main(void) { puts("x"); }' >x.c; gcc -O2 -o x x.c; echo 'int main() {}' >y.cc; g++ -c y.cc`,
	} {
		t.Run(name, func(t *testing.T) {
			testenv.Tool(t, name)
			dir := filepath.Join(work, name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			c.compare(t, c.trace(t, time.Minute, nil, "/bin/sh", "-c", "cd "+dir+"\n"+script))
		})
	}
	t.Run("redis-server", c.redis)
	t.Run("nginx", c.nginx)
	t.Run("built", c.built)
}

// freePort returns a port that nobody listened on a moment ago.
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

// answers waits until the server at url does.
func answers(t *testing.T, url string) {
	t.Helper()
	for range 300 {
		r, err := http.Get(url)
		if err == nil {
			_, _ = io.Copy(io.Discard, r.Body)
			r.Body.Close()
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("%s does not answer", url)
}

func (c *comparison) redis(t *testing.T) {
	server, client, bench := testenv.Tool(t, "redis-server"), testenv.Tool(t, "redis-cli"), testenv.Tool(t, "redis-benchmark")
	port, dir := freePort(t), t.TempDir()
	run := func(name string, args ...string) error {
		return exec.Command(name, append([]string{"-p", port}, args...)...).Run()
	}
	doc := c.trace(t, time.Minute, func() {
		for tries := 0; run(client, "ping") != nil && tries < 300; tries++ {
			time.Sleep(100 * time.Millisecond)
		}
		if err := run(bench, "-n", "200", "-c", "4", "-q"); err != nil {
			t.Error(err)
		}
		for _, args := range [][]string{
			{"eval", "return redis.call('info')", "0"}, {"bgsave"}, {"bgrewriteaof"}, {"debug", "sleep", "0.2"}, {"shutdown", "save"},
		} {
			_ = run(client, args...)
		}
	}, server, "--port", port, "--dir", dir, "--bind", "127.0.0.1", "--appendonly", "yes", "--loglevel", "warning")
	c.compare(t, doc)
}

func (c *comparison) nginx(t *testing.T) {
	nginx := testenv.Tool(t, "nginx")
	port, dir := freePort(t), t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, `
daemon off; pid %[1]s/pid; error_log %[1]s/error; worker_processes 2; user root;
events {}
http {
	access_log %[1]s/access; gzip on; gzip_types *;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
	server {
		listen 127.0.0.1:%[2]s; root %[1]s;
		location /proxied { proxy_pass http://127.0.0.1:%[2]s/; }
	}
}`, dir, port), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "index.html"), bytes.Repeat([]byte("hello "), 1000), 0o644); err != nil {
		t.Fatal(err)
	}
	doc := c.trace(t, time.Minute, func() {
		for _, path := range []string{"/", "/none", "/proxied", "/index.html?x"} {
			answers(t, "http://127.0.0.1:"+port+path)
		}
		_ = exec.Command(nginx, "-c", conf, "-s", "reload").Run()
		time.Sleep(300 * time.Millisecond)
		answers(t, "http://127.0.0.1:"+port)
		if err := exec.Command(nginx, "-c", conf, "-s", "quit").Run(); err != nil {
			t.Error(err)
		}
	}, nginx, "-c", conf)
	c.compare(t, doc)
}

const (
	helloC = `#include <stdio.h>
int main(void) { puts("hello"); return 0; }`
	threadsCC = `#include <thread>
#include <future>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <mutex>
#include <condition_variable>
int main() {
	std::mutex m; std::condition_variable c; bool ready = false;
	std::thread t([&] { std::unique_lock<std::mutex> l(m); c.wait(l, [&] { return ready; }); std::cout << "ran" << std::endl; });
	{ std::lock_guard<std::mutex> l(m); ready = true; }
	c.notify_all();
	t.join();
	std::cout << std::async(std::launch::async, [] { return 7; }).get() << "\n";
	std::ofstream("/dev/null") << "x";
	std::this_thread::sleep_for(std::chrono::milliseconds(1));
	try { throw std::runtime_error("x"); } catch (std::exception &e) { std::cerr << e.what() << "\n"; }
}`
	helloGo = `package main

import "fmt"

func main() { fmt.Println("hello") }
`
	httpGo = `package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"time"
)

func main() {
	s := &http.Server{Addr: "127.0.0.1:" + os.Args[1]}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		out, _ := exec.Command("/bin/true").CombinedOutput()
		fmt.Fprintln(w, len(out), time.Now())
	})
	http.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, os.Args[0]) })
	answered := make(chan error)
	http.HandleFunc("/quit", func(w http.ResponseWriter, r *http.Request) { go func() { answered <- s.Shutdown(context.Background()) }() })
	s.ListenAndServe()
	<-answered
}
`
)

// built compares programs that are built here.
func (c *comparison) built(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"hello.c": helloC, "threads.cc": threadsCC, "hello.go": helloGo, "http.go": httpGo} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, command := range map[string]string{
		"dynamic":       "gcc -O2 hello.c",
		"static":        "gcc -O2 -static hello.c",
		"static-pie":    "gcc -O2 -static-pie hello.c",
		"musl":          "musl-gcc -O2 hello.c",
		"musl-static":   "musl-gcc -O2 -static hello.c",
		"threads":       "g++ -O2 -pthread threads.cc",
		"go":            "go build hello.go",
		"go-stripped":   "go build -ldflags=-s hello.go",
		"http":          "go build http.go",
		"http-stripped": "go build -ldflags=-s http.go",
	} {
		t.Run(name, func(t *testing.T) {
			words := strings.Fields(command)
			testenv.Tool(t, words[0])
			out := filepath.Join(dir, name)
			source := words[len(words)-1]
			cmd := exec.Command(words[0], append(slices.Clone(words[1:len(words)-1]), "-o", out, source)...)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "GO111MODULE=off", "CGO_ENABLED=0")
			if said, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", command, err, said)
			}
			if source != "http.go" {
				c.compare(t, c.trace(t, time.Minute, nil, out))
				return
			}
			port := freePort(t)
			c.compare(t, c.trace(t, time.Minute, func() {
				for _, path := range []string{"/", "/file", "/", "/quit"} {
					answers(t, "http://127.0.0.1:"+port+path)
				}
			}, out, port))
		})
	}
}
