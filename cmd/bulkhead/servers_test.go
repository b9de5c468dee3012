package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"bulkhead/internal/kernel"
	"bulkhead/internal/testenv"
)

// fullServers makes TestServers put the load of a whole benchmark on the servers: make stress.
const fullServers = "BULKHEAD_SERVERS"

// server is a program that answers requests.
type server struct {
	command []string
	address string
	load    func(t *testing.T) // fails the test for each request that fails
	stop    func() error
}

// TestServers runs servers under a full benchmark, governed by the policy that was derived from a trace of the same, and by
// one derived from their analysis alone: nothing may be denied, no request may fail.
func TestServers(t *testing.T) {
	testenv.Require(t, kernel.Require(kernel.KernelKill))
	bulkhead := filepath.Join(publicProgram(t), "bulkhead")
	for name, make := range map[string]func(*testing.T) *server{"redis": redisServer, "nginx": nginxServer} {
		t.Run(name, func(t *testing.T) {
			s, dir := make(t), t.TempDir()
			traced, analysed := filepath.Join(dir, "traced.json"), filepath.Join(dir, "analysed.json")
			s.run(t, bulkhead, "trace", "-o", "json", "--out", traced, "--")
			if said, err := exec.Command(bulkhead, "analyze", "-o", "json", "--out", analysed, s.command[0]).CombinedOutput(); err != nil {
				t.Fatalf("analyze: %v\n%s", err, said)
			}
			for _, document := range []string{traced, analysed} {
				policy := derive(t, bulkhead, document)
				denials := document + ".denials"
				s.run(t, bulkhead, "run", "--backend", "kernel", "--policy", policy, "--denials", denials, "--")
				if denied, err := os.ReadFile(denials); err != nil || len(denied) > 0 {
					t.Errorf("under the policy of %s: %v\n%s", filepath.Base(document), err, denied)
				}
			}
		})
	}
}

// derive writes the policy of a document that kills.
func derive(t *testing.T, bulkhead, document string) string {
	t.Helper()
	c := exec.Command(bulkhead, "policy", "--allow-incomplete", document)
	text, err := c.Output()
	if err != nil {
		t.Fatalf("policy: %v", err)
	}
	deny := regexp.MustCompile(`(?m)^on-violation = .*`)
	policy := document + ".policy"
	if err := os.WriteFile(policy, deny.ReplaceAll(text, []byte(`on-violation = "kill"`)), 0o644); err != nil {
		t.Fatal(err)
	}
	return policy
}

// run starts the server through a wrapper, puts the load on it and stops it.
func (s *server) run(t *testing.T, wrapper ...string) {
	t.Helper()
	command := append(wrapper, s.command...)
	c := exec.Command(command[0], command[1:]...)
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Process.Kill()
	for tries := 0; ; tries++ {
		if connection, err := net.Dial("tcp", s.address); err == nil {
			connection.Close()
			break
		}
		if tries == 600 {
			t.Fatalf("%q does not answer:\n%s", command, &said)
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.load(t)
	if err := s.stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("%q: %v\n%s", command, err, &said)
	}
}

// requests is how many of each kind are made.
func requests() string {
	if os.Getenv(fullServers) != "" {
		return "100000"
	}
	return "2000"
}

func redisServer(t *testing.T) *server {
	port := freePort(t)
	client, bench := testenv.Tool(t, "redis-cli"), testenv.Tool(t, "redis-benchmark")
	return &server{
		command: []string{testenv.Tool(t, "redis-server"), "--port", port, "--bind", "127.0.0.1", "--dir", t.TempDir(),
			"--appendonly", "yes", "--loglevel", "warning"},
		address: "127.0.0.1:" + port,
		load: func(t *testing.T) {
			out, err := exec.Command(bench, "-p", port, "-n", requests(), "-c", "50", "--csv").CombinedOutput()
			const kinds = 19 // of requests that redis-benchmark makes
			if lines := bytes.Count(out, []byte("\n\"")); err != nil || lines < kinds {
				t.Errorf("redis-benchmark: %v, %d kinds of requests, want %d\n%s", err, lines, kinds, out)
			}
			for _, args := range []string{"eval return(redis.call('info')) 0", "bgsave", "bgrewriteaof", "config resetstat"} {
				out, err := exec.Command(client, append([]string{"-p", port}, strings.Fields(args)...)...).CombinedOutput()
				if err != nil || bytes.HasPrefix(out, []byte("ERR")) {
					t.Errorf("%s: %v, %s", args, err, out)
				}
				time.Sleep(300 * time.Millisecond) // one fork at a time
			}
		},
		stop: func() error {
			exec.Command(client, "-p", port, "shutdown", "nosave").Run() // it ends before it answers
			return nil
		},
	}
}

// nginxServer serves files over TLS, and as a proxy of itself.
func nginxServer(t *testing.T) *server {
	nginx, wrk := testenv.Tool(t, "nginx"), testenv.Tool(t, "wrk")
	port, plain, dir := freePort(t), freePort(t), t.TempDir()
	certificate(t, dir)
	conf := filepath.Join(dir, "nginx.conf")
	for name, content := range map[string]string{
		"index.html": strings.Repeat("hello ", 1000),
		"nginx.conf": fmt.Sprintf(`
daemon off; pid %[1]s/pid; error_log %[1]s/error; worker_processes 2; user root;
events {}
http {
	access_log %[1]s/access; gzip on; gzip_types *; sendfile on;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
	server {
		listen 127.0.0.1:%[2]s ssl; listen 127.0.0.1:%[3]s; root %[1]s;
		ssl_certificate %[1]s/certificate.pem; ssl_certificate_key %[1]s/key.pem;
		location /proxied { proxy_pass http://127.0.0.1:%[3]s/; }
	}
}`, dir, port, plain),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	seconds := map[string]string{"2000": "1s", "100000": "20s"}[requests()]
	return &server{
		command: []string{nginx, "-c", conf},
		address: "127.0.0.1:" + port,
		load: func(t *testing.T) {
			for _, url := range []string{
				"https://127.0.0.1:" + port + "/", "https://127.0.0.1:" + port + "/proxied",
				"http://127.0.0.1:" + plain + "/index.html?x",
			} {
				out, err := exec.Command(wrk, "-t2", "-c20", "-d", seconds, "-H", "Accept-Encoding: gzip", url).CombinedOutput()
				if err != nil || bytes.Contains(out, []byte("Socket errors")) || bytes.Contains(out, []byte("Non-2xx")) ||
					!bytes.Contains(out, []byte("Requests/sec")) {
					t.Errorf("wrk %s: %v\n%s", url, err, out)
				}
			}
			answer, err := http.Get("http://127.0.0.1:" + plain + "/none")
			if err != nil {
				t.Error(err)
			} else if answer.Body.Close(); answer.StatusCode != http.StatusNotFound {
				t.Errorf("a file that is not there: %s", answer.Status)
			}
			if out, err := exec.Command(nginx, "-c", conf, "-s", "reload").CombinedOutput(); err != nil {
				t.Errorf("reload: %v\n%s", err, out)
			}
			time.Sleep(500 * time.Millisecond)
			answers(t, "http://127.0.0.1:"+plain)
		},
		stop: func() error { return exec.Command(nginx, "-c", conf, "-s", "quit").Run() },
	}
}

// certificate writes the one of net/http/httptest, which the clients here do not verify.
func certificate(t *testing.T, dir string) {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	key, err := x509.MarshalPKCS8PrivateKey(s.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"certificate.pem": {Type: "CERTIFICATE", Bytes: s.TLS.Certificates[0].Certificate[0]},
		"key.pem":         {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
