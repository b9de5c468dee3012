package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"bulkhead/internal/kernel"
	"bulkhead/internal/testenv"
)

// doctor runs the verb in this process.
func doctor(t *testing.T, arguments ...string) (output string, err error) {
	t.Helper()
	var out strings.Builder
	command := doctorCommand()
	command.SetOut(&out)
	command.SetErr(&out)
	command.SetArgs(arguments)
	command.SilenceErrors, command.SilenceUsage = true, true
	err = command.Execute()
	return out.String(), err
}

func TestDoctor(t *testing.T) {
	table, err := doctor(t)
	works := strings.Contains(table, "\n  trace: works\n")
	if works != (err == nil) {
		t.Errorf("error is %v, but the output ends with:\n%s", err, table)
	}
	var status exitStatus
	if err != nil && (!errors.As(err, &status) || status != 1) {
		t.Errorf("error is %v, want exit status 1", err)
	}
	if strings.Contains(table, "\x1b") {
		t.Error("escapes are written to what is not a terminal")
	}
	output, jsonErr := doctor(t, "-o", "json")
	if (jsonErr == nil) != works {
		t.Errorf("error with -o json is %v, and %v without", jsonErr, err)
	}
	if survey := decodeSurvey(t, output); survey.Works(kernel.Trace) != works {
		t.Errorf("the table says that trace works: %t, the document %t", works, survey.Works(kernel.Trace))
	}
}

func TestDoctorUsage(t *testing.T) {
	for _, arguments := range [][]string{{"-o", "yaml"}, {"now"}, {"--fix"}} {
		output, err := doctor(t, arguments...)
		var status exitStatus
		if err == nil || errors.As(err, &status) || output != "" {
			t.Errorf("doctor %q: error %v, output %q; want a usage error alone", arguments, err, output)
		}
	}
}

// Debian's kernels, with bpf among their security modules, offer everything.
func TestDoctorInVM(t *testing.T) {
	files := map[string]string{"/bulkhead": testenv.BuildProgram(t, "cmd/bulkhead")}
	for _, version := range testenv.Kernels {
		t.Run(string(version), func(t *testing.T) {
			output, exit := testenv.BootVM(t, version, files, []string{"/bulkhead", "doctor", "-o", "json"}, 2*time.Minute)
			if exit != 0 {
				t.Errorf("exit status %d", exit)
			}
			survey := decodeSurvey(t, output)
			for _, verdict := range survey.Verdicts {
				if !verdict.Works {
					t.Errorf("%s does not work: %+v", verdict.Use, verdict.Missing)
				}
			}
			for _, result := range survey.Probes {
				if !result.Available {
					t.Errorf("%s is not available: %s", result.Name, result.Detail)
				}
			}
		})
	}
}

func decodeSurvey(t *testing.T, output string) *kernel.Survey {
	t.Helper()
	survey := new(kernel.Survey)
	decoder := json.NewDecoder(strings.NewReader(output))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(survey); err != nil {
		t.Fatalf("%v in:\n%s", err, output)
	}
	if survey.Schema != kernel.SurveySchema {
		t.Fatalf("schema is %q, want %q", survey.Schema, kernel.SurveySchema)
	}
	return survey
}
