package control

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"

	"example.com/baton/e2e/tier"
)

func TestOwnersOf(t *testing.T) {
	tier.Root(t)
	const service, stranger = 1234, 65534
	dir := t.TempDir() // of root, and on the way there is only root's, and /tmp
	make := func(path string, owner int, mode os.FileMode) {
		t.Helper()
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(path, 0o700), os.Chmod(path, mode), os.Lchown(path, owner, owner)); err != nil {
			t.Fatal(err)
		}
	}
	link := func(path, target string, owner int) {
		t.Helper()
		path = filepath.Join(dir, path)
		if err := errors.Join(os.Symlink(strings.ReplaceAll(target, "DIR", dir), path), os.Lchown(path, owner, owner)); err != nil {
			t.Fatal(err)
		}
	}
	make("run", 0, 0o755)
	make("run/baton", service, 0o755)
	make("run/root", 0, 0o755)
	make("home/stranger", stranger, 0o755)
	make("tmp", 0, os.ModeSticky|0o777)
	make("tmp/baton-0", stranger, 0o700)
	make("tmp/own", 0, 0o700)
	make("group", 0, 0o775)
	make("group/baton-0", stranger, 0o700)
	link("var", "DIR/run", 0)
	link("relative", "run/../run/baton", 0)
	link("tmp/trap", "DIR/home/stranger", stranger)
	link("tmp/loop", "loop", 0)
	for path, want := range map[string][]uint32{
		"run/root/s":         {0},
		"run/baton/s":        {0, service},
		"run/baton/none/s":   {0, service},
		"var/baton/s":        {0, service},
		"relative/s":         {0, service},
		"home/stranger/s":    {0, stranger}, // root has given it to that user
		"tmp/s":              {0},
		"tmp/own/s":          {0},
		"tmp/baton-0/s":      {0},
		"tmp/own/../baton-0": {0},
		"tmp/trap/s":         {0},
		"tmp/loop/s":         {0},
		"group/baton-0/s":    {0},
		"none":               {0},
	} {
		got := ownersOf(dir + "/" + path)
		slices.Sort(got)
		if got = slices.Compact(got); !slices.Equal(got, want) {
			t.Errorf("%s: got users %v, want %v", path, got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for s, want := range map[string]string{
		"plain, with ü and 漢 and \"quotes\" and a \\": "plain, with ü and 漢 and \"quotes\" and a \\",
		"\x1b[2J\x1b]0;title\x07":                     `\x1b[2J\x1b]0;title\a`,
		"one\nbaton: two\r":                           `one\nbaton: two\r`,
		"\u009b31m":                                   `\u009b31m`,
		"\u202egnp.exe\u2066":                         `\u202egnp.exe\u2066`,
		"a\tb\x00\x7f":                                `a b\x00\x7f`,
		"\u2028\u200b\ufeff":                          `\u2028\u200b\ufeff`,
	} {
		if got := printable(s); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
}

// FuzzUnmarshalPrintable looks for a reply with something in it that a terminal would act upon.
func FuzzUnmarshalPrintable(f *testing.F) {
	f.Add([]byte(`{"final":true,"error":"\u001b[2J","outcome":{"result":"x\n","stderr":["\u202e"],"pid":1e3},"status":{"generations":[{"state":"\u009b"}]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var r Reply
		if unmarshalPrintable(text, &r) != nil {
			return
		}
		out, err := json.Marshal(r)
		if err != nil {
			return // of a time, which is no year that JSON knows
		}
		var all any
		json.Unmarshal(out, &all)
		var check func(any)
		check = func(v any) {
			switch v := v.(type) {
			case string:
				if strings.ContainsFunc(v, unicode.IsControl) {
					t.Errorf("got %q", v)
				}
			case []any:
				for _, v := range v {
					check(v)
				}
			case map[string]any:
				for _, v := range v {
					check(v)
				}
			}
		}
		check(all)
	})
}
