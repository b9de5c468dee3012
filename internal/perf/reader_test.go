package perf

import (
	"os/exec"
	"testing"
)

func TestRecordsOfAShortProcess(t *testing.T) {
	r, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	records := r.Drain(nil)
	pid := cmd.Process.Pid
	var kinds []Kind
	paths := map[string]bool{}
	for _, rec := range records {
		if rec.PID != pid {
			continue
		}
		if len(kinds) == 0 || kinds[len(kinds)-1] != rec.Kind {
			kinds = append(kinds, rec.Kind)
		}
		if rec.Kind == Map {
			paths[rec.Path] = true
			if rec.Start >= rec.End || rec.End-rec.Start > 1<<32 {
				t.Errorf("%s: range %#x-%#x", rec.Path, rec.Start, rec.End)
			}
		}
	}
	if len(kinds) < 4 || kinds[0] != Fork || kinds[len(kinds)-1] != Exit {
		t.Errorf("kinds %v", kinds)
	}
	for _, want := range []string{cmd.Path, "[vdso]"} {
		if !paths[want] {
			t.Errorf("no mapping of %s in %v", want, paths)
		}
	}
	for i := 1; i < len(records); i++ {
		if records[i].Time < records[i-1].Time {
			t.Fatal("records are not in the order of their times")
		}
	}
}
