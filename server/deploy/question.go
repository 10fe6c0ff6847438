package deploy

import (
	"flag"
	"io"
	"os"
	"syscall"
	"time"

	"example.com/baton/server/settings"
)

// A question is what the flags say: it has a field for each.
type question struct {
	step
	now        bool
	rollback   bool
	target     string
	force      bool
	health     string
	within     time.Duration
	before     string
	baseline   bool
	generation int
	runs       string
	finish     bool
	crashes    bool
	progress   int
	rest       []string // of the arguments
}

// parse reads the flags, of which each question uses its own.
func parse(args []string) (*question, error) {
	q := new(question)
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Bool("shell", true, "print lines KEY=VALUE")
	flags.StringVar(&q.Unit, "unit", "", "`service` of systemd")
	flags.BoolVar(&q.now, "now", false, "report what is so now")
	flags.BoolVar(&q.rollback, "rollback", false, "the way back must be open whatever is under way")
	flags.StringVar(&q.File, "binary", "", "new `file`")
	flags.StringVar(&q.target, "target", "", "`file` that it is to replace")
	flags.BoolVar(&q.force, "force", false, "baton may replace another program")
	flags.StringVar(&q.health, "health", "", "`paths` and URLs of the health check, one a line")
	flags.DurationVar(&q.within, "within", 5*time.Second, "`time` that an answer may take")
	flags.BoolVar(&q.baseline, "baseline", false, "report the answers, whatever they are")
	flags.StringVar(&q.before, "before", "", "`answers` of the release before")
	flags.StringVar(&q.File, "serves", "", "`file` that is to serve")
	flags.BoolVar(&q.Start, "start", false, "the service is not alive")
	flags.StringVar(&q.File, "back", "", "`file` that was put back and is to serve")
	flags.StringVar(&q.File, "drained", "", "`file` that serves while its predecessors drain")
	flags.IntVar(&q.generation, "generation", 0, "`number` of the generation that serves")
	flags.StringVar(&q.File, "settle", "", "`file` in whose place a deploy was under way")
	flags.StringVar(&q.runs, "runs", "", "`identity` of the file that runs")
	flags.BoolVar(&q.finish, "finish", false, "the deploy stays")
	flags.BoolVar(&q.crashes, "crashes", false, "what was replaced crashes")
	flags.StringVar(&q.File, "end", "", "`file` of which another deploy is to be ended")
	flags.IntVar(&q.progress, "progress", -1, "`descriptor` to tell on what is waited for")
	flags.StringVar(&q.Name, "name", "", "`name` of what is to serve")
	flags.StringVar(&q.Version, "version", "", "`version` that is to serve")
	flags.Bool("crashed", true, "the main process has died; the arguments of the service follow")
	flags.Func("canary", "`share` of the connections for a trial, this once", q.setShare)
	flags.Func("watch", "`time` of a watch, this once", q.setWatch)
	flags.IntVar(&q.WasPID, "was", 0, "`pid` of what served before")
	if err := flags.Parse(args[1:]); err != nil {
		return nil, err
	}
	q.rest = flags.Args()
	return q, nil
}

func (q *question) setShare(s string) error {
	share, err := settings.ParseShare(s)
	q.Overrides.Share = &share
	return err
}

func (q *question) setWatch(s string) error {
	watch, err := time.ParseDuration(s)
	q.Overrides.Watch = &watch
	return err
}

// shown returns what tells the person who runs the script what is waited for.
func (q *question) shown() progress {
	if q.progress < 0 {
		return newProgress(nil)
	}
	syscall.CloseOnExec(q.progress) // or what systemctl leaves would hold up who reads the output
	return newProgress(os.NewFile(uintptr(q.progress), "progress"))
}
