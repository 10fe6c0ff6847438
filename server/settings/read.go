package settings

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// Input is what settings are read from.
type Input struct {
	Args    []string // without the name of the program and that of a command
	Environ []string // as of os.Environ
	UID     int      // of this process

	// Root is the directory in which the places of an installed service are looked up,
	// such as /run/baton. Empty means "/".
	Root string

	// Become makes this process one of another user. If it is not nil, there is a
	// setting more, -user, which it is called with before any file is read that the
	// service reads, the configuration file aside.
	Become func(user string) error
}

// Help is the error for a call that asks for help.
type Help struct {
	Flags string // what package flag prints of them
}

// Error returns a constant.
func (Help) Error() string { return flag.ErrHelp.Error() }

// reader reads the settings of a generation.
type reader struct {
	in                 Input
	settings           Settings
	certificates, keys []string // paths
	problems           []error
}

func (r *reader) report(err error) {
	if err != nil {
		r.problems = append(r.problems, err)
	}
}

// parse parses a value of a setting.
func (r *reader) parse(s setting, value string) {
	if err := s.parse(value); err != nil {
		r.report(fmt.Errorf("-%s: %w", s.name, err))
	}
}

// Read reads the settings of a generation. The error joins one for each problem, or is
// a [Help].
func Read(in Input) (Settings, error) {
	r := &reader{in: in}
	flags := newFlags()
	flags.String("config", "", "`file` with a setting in each line: name value")
	rows := r.table()
	texts := make([]*string, len(rows)) // of the settings that are given once
	for i, s := range rows {
		switch s.kind {
		case once:
			texts[i] = flags.String(s.name, s.value, s.help)
		case each:
			flags.Func(s.name, s.help, func(values string) error {
				for value := range strings.SplitSeq(values, ",") {
					r.parse(s, strings.TrimSpace(value))
				}
				return nil
			})
		case toggle:
			flags.BoolFunc(s.name, s.help, func(value string) error { r.parse(s, value); return nil })
		}
	}
	err := in.readInto(flags, true)
	if _, isHelp := errors.AsType[Help](err); isHelp {
		return Settings{}, err
	}
	r.report(err)
	for i, s := range rows {
		if s.kind == once {
			r.parse(s, *texts[i])
		}
	}
	r.checkTogether()
	return r.settings, errors.Join(r.problems...)
}

func newFlags() *flag.FlagSet {
	flags := flag.NewFlagSet("baton", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	return flags
}

// lookup returns the value of an environment variable.
func (in Input) lookup(name string) (value string, found bool) {
	for _, variable := range in.Environ {
		if value, found = strings.CutPrefix(variable, name+"="); found {
			return value, true
		}
	}
	return "", false
}

// readInto sets flags: from the arguments, then the environment, then the file that
// -config names. With strict, the file must not have settings that are no flags.
func (in Input) readInto(flags *flag.FlagSet, strict bool) error {
	args, unknown := knownFlags(flags, in.Args)
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		var help strings.Builder
		flags.SetOutput(&help)
		flags.PrintDefaults()
		return Help{help.String()}
	}
	if err != nil {
		err = fmt.Errorf("error parsing commandline arguments: %w", err)
	} else if err = in.readEnviron(flags); err == nil {
		err = readFile(flags, strict)
	}
	if flags.NArg() > 0 {
		unknown = append(unknown, fmt.Errorf("unexpected argument %q", withoutValue(flags.Arg(0))))
	}
	return errors.Join(append(unknown, err)...)
}

// readEnviron sets the flags that are not set yet and have a variable. An empty one
// counts where the default is not empty.
func (in Input) readEnviron(flags *flag.FlagSet) (err error) {
	isSet := provided(flags)
	flags.VisitAll(func(f *flag.Flag) {
		if isArgument(f) {
			return
		}
		name := "BATON_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, found := in.lookup(name)
		if err != nil || isSet[f.Name] || !found || value == "" && f.DefValue == "" {
			return
		}
		if setErr := flags.Set(f.Name, value); setErr != nil {
			err = fmt.Errorf("error parsing environment variables: error setting flag %q from environment variable %q: %w", f.Name, name, setErr)
		}
	})
	return err
}

// readFile sets the flags that are not set yet and have a line in the file.
func readFile(flags *flag.FlagSet, strict bool) error {
	path := flags.Lookup("config").Value.String()
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	isSet := provided(flags)
	settings := 0
	err = parseFile(f, func(name, value string) error {
		settings++
		f := flags.Lookup(name)
		if value == "" && isBool(f) {
			value = "true" // as on the command line
		}
		switch {
		case f == nil || isArgument(f) || name == "config" || name == "user":
			if strict {
				return fmt.Errorf("unknown setting %q; baton -h lists them", withoutValue(name))
			}
		case !isSet[name]:
			if err := flags.Set(name, value); err != nil {
				return fmt.Errorf("error setting flag %q from config file: %w", name, err)
			}
		}
		return nil
	})
	if err == nil && settings == 0 && strict {
		// It was lost, say on a full disk: the defaults are not what anybody wants then.
		err = fmt.Errorf("configuration file %s sets nothing; restore it, or leave -config out to have the defaults", path)
	}
	return err
}

// provided returns the names of the flags that are set.
func provided(flags *flag.FlagSet) map[string]bool {
	names := make(map[string]bool)
	flags.Visit(func(f *flag.Flag) { names[f.Name] = true })
	return names
}

// knownFlags returns the arguments without flags that do not exist, so that the
// rest can be read, and an error for each of those.
func knownFlags(flags *flag.FlagSet, args []string) (known []string, unknown []error) {
	for i := 0; i < len(args); i++ {
		dashed, _, hasValue := strings.Cut(args[i], "=")
		name := strings.TrimPrefix(strings.TrimPrefix(dashed, "-"), "-")
		if name == dashed || name == "" { // where flags end
			return append(known, args[i:]...), unknown
		}
		f := flags.Lookup(name)
		takesNext := !hasValue && !isBool(f) && name != "h" && name != "help" && i+1 < len(args)
		if f == nil && name != "h" && name != "help" {
			unknown = append(unknown, fmt.Errorf("unknown flag -%s; baton -h lists them", name))
			if takesNext && !strings.HasPrefix(args[i+1], "-") {
				i++
			}
			continue
		}
		known = append(known, args[i])
		if takesNext {
			i++
			known = append(known, args[i])
		}
	}
	return known, unknown
}

// withoutValue shortens what was not understood to where a value may begin, which
// may hold a password.
func withoutValue(s string) string {
	if end := strings.IndexAny(s, "=:@"); end >= 0 {
		return s[:end] + "…"
	}
	return s
}

func isBool(f *flag.Flag) bool {
	if f == nil {
		return false
	}
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}
