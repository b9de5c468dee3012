package kernel

import (
	"cmp"
	"os"
	"slices"
	"strings"
)

// SurveySchema names the JSON form of a [Survey].
const SurveySchema = "bulkhead.doctor/v1"

// Survey is what all probes found, and what follows from it.
type Survey struct {
	Schema   string    `json:"schema"`
	Release  string    `json:"release"`  // uname -r
	Machine  string    `json:"machine"`  // uname -m
	UID      int       `json:"uid"`      // effective user
	Probes   []Result  `json:"probes"`   // sorted by name
	Verdicts []Verdict `json:"verdicts"` // one for each of Uses, in that order
}

// Verdict says whether one use works here.
type Verdict struct {
	Use     Use       `json:"use"`
	Works   bool      `json:"works"`
	Missing []Missing `json:"missing"` // the causes, in the order in which they are probed
}

// Missing is a feature that a use lacks.
type Missing struct {
	Feature Feature `json:"feature"`
	Reason  string  `json:"reason"`
	Remedy  string  `json:"remedy"` // empty if nothing is known to help
}

// Look runs every probe.
func Look() *Survey {
	p := newProber()
	release, machine, _ := uname() // no failure is documented
	survey := &Survey{Schema: SurveySchema, Release: release, Machine: machine, UID: os.Geteuid()}
	for _, probe := range probes {
		survey.Probes = append(survey.Probes, p.result(probe.feature))
	}
	for _, use := range Uses {
		survey.Verdicts = append(survey.Verdicts, conclude(use, survey.Probes))
	}
	slices.SortFunc(survey.Probes, func(a, b Result) int { return cmp.Compare(a.Name, b.Name) })
	return survey
}

// conclude derives a verdict from results in the order of probing.
func conclude(use Use, results []Result) Verdict {
	verdict := Verdict{Use: use, Works: true, Missing: []Missing{}}
	for _, result := range results {
		if result.Available || !slices.Contains(result.NeededFor, use) {
			continue
		}
		verdict.Works = false
		if rootCause(result) != nil {
			verdict.Missing = append(verdict.Missing, Missing{result.Name, result.Detail, result.Remedy})
		}
	}
	return verdict
}

// Works tells the verdict on use.
func (s *Survey) Works(use Use) bool { return s.verdict(use).Works }

func (s *Survey) verdict(use Use) Verdict {
	i := slices.IndexFunc(s.Verdicts, func(v Verdict) bool { return v.Use == use })
	if i < 0 {
		panic("kernel: no verdict on " + string(use))
	}
	return s.Verdicts[i]
}

// Result returns what was found about feature.
func (s *Survey) Result(feature Feature) Result {
	i := slices.IndexFunc(s.Probes, func(r Result) bool { return r.Name == feature })
	if i < 0 {
		panic("kernel: no result for feature " + string(feature))
	}
	return s.Probes[i]
}

// Row is one row of a survey's CSV and Parquet forms (docs/dataframe.md).
type Row struct {
	Feature    string `parquet:"feature"`
	Available  bool   `parquet:"available"`
	Probed     bool   `parquet:"probed"`
	NeededFor  string `parquet:"needed_for"` // joined by semicolons
	MinVersion string `parquet:"min_version"`
	Detail     string `parquet:"detail"`
	Remedy     string `parquet:"remedy"`
}

// Rows returns the probes as rows.
func (s *Survey) Rows() []Row {
	rows := make([]Row, len(s.Probes))
	for i, r := range s.Probes {
		uses := make([]string, len(r.NeededFor))
		for j, use := range r.NeededFor {
			uses[j] = string(use)
		}
		rows[i] = Row{string(r.Name), r.Available, r.Probed, strings.Join(uses, ";"), r.MinVersion, r.Detail, r.Remedy}
	}
	return rows
}
