package deploy

import (
	"fmt"
	"io"
	"time"
)

// A progress tells a person who waits, in the form of the script's steps, what is waited for.
type progress struct {
	w     io.Writer // nil: nobody
	began time.Time
	state *shown
}

type shown struct {
	line string
	at   time.Time
}

func newProgress(w io.Writer) progress {
	return progress{w, time.Now(), new(shown)}
}

// show shows what serves: from the first second on, when it changes, and every ten seconds.
func (p progress) show(s serving) {
	line := s.Status.String()
	if line == "" {
		line = s.Unit.Name + " does not answer yet"
	}
	p.say(line)
}

func (p progress) say(line string) {
	took := time.Since(p.began)
	if p.w == nil || took < time.Second || time.Since(p.state.at) < time.Second || line == p.state.line && time.Since(p.state.at) < 10*time.Second {
		return
	}
	p.state.line, p.state.at = line, time.Now()
	fmt.Fprintf(p.w, "%-10s %7.2f s   %s\n", "waits", took.Seconds(), line)
}
