package denial

import "bulkhead/internal/attribution"

// line is one line of --denials.
type line struct {
	Time        uint64              `json:"time"` // CLOCK_MONOTONIC, ns
	PID         int                 `json:"pid"`
	TID         int                 `json:"tid"`
	Action      Action              `json:"action"`
	Error       string              `json:"error"`
	Program     string              `json:"program"`
	Compartment string              `json:"compartment"`
	ABI         attribution.ABI     `json:"abi"`
	Syscall     string              `json:"syscall"`
	NR          int                 `json:"nr"`
	Args        []string            `json:"args"`
	Decided     string              `json:"decided"`
	Remedy      string              `json:"remedy"`
	Stack       []attribution.Frame `json:"stack"`
	Whole       bool                `json:"whole"`
}

func (d *Denial) line() line {
	l := line{
		Time: d.Time, PID: d.PID, TID: d.TID, Action: d.Action, Error: d.Errno,
		Program: d.Program, Compartment: d.Compartment,
		ABI: d.Call.ABI, Syscall: d.Call.Name, NR: d.Call.NR, Args: append([]string{}, d.Args...),
		Decided: d.Decided, Remedy: d.Remedy, Whole: d.Whole, Stack: []attribution.Frame{},
	}
	for _, f := range d.Stack {
		l.Stack = append(l.Stack, attribution.Frame{Object: f.object(), Function: f.Function, Offset: f.Offset})
	}
	return l
}
