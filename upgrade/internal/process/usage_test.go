package process

import (
	"math"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func TestUsage(t *testing.T) {
	before, err := UsageOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const descriptors, bytes = 100, 64 << 20
	for range descriptors {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	memory := make([]byte, bytes)
	for i := 0; i < len(memory); i += os.Getpagesize() {
		memory[i] = 1
	}
	after, err := UsageOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	runtime.KeepAlive(memory)
	if n := after.Descriptors - before.Descriptors; n < descriptors || n > descriptors+10 {
		t.Errorf("%d descriptors more, want %d", n, descriptors)
	}
	if after.Memory < before.Memory+bytes*3/4 { // the collector may have returned some
		t.Errorf("got %d bytes, and %d before there were %d more", after.Memory, before.Memory, bytes)
	}
	if _, err := UsageOf(math.MaxInt32); err == nil {
		t.Error("got no error for a process that there is not")
	}
}

func TestMemoryLeft(t *testing.T) {
	left, err := MemoryLeft()
	if err != nil {
		t.Fatal(err)
	}
	total, err := field("/proc/meminfo", "MemTotal:")
	if err != nil || left == 0 || left > total<<10 {
		t.Errorf("got %d of %d KiB, %v", left, total, err)
	}
}

func TestLeftInGroup(t *testing.T) {
	root := t.TempDir()
	group := func(name string, files map[string]string) {
		if err := os.MkdirAll(filepath.Join(root, name), 0o700); err != nil {
			t.Fatal(err)
		}
		for file, content := range files {
			if err := os.WriteFile(filepath.Join(root, name, file), []byte(content+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	group("a", map[string]string{"memory.max": "1000", "memory.current": "600", "memory.stat": "anon 300\nfile 200"})
	group("a/b", map[string]string{"memory.max": "max", "memory.current": "500", "memory.stat": "anon 500\nfile 0"})
	group("a/b/tight", map[string]string{"memory.max": "300", "memory.current": "450", "memory.stat": "anon 300\nfile 50"})
	group("a/b/small", map[string]string{"memory.max": "300", "memory.current": "250", "memory.stat": "anon 200\nfile 50"})
	for _, test := range []struct {
		group string
		want  uint64
	}{
		{"/", math.MaxUint64},
		{"/elsewhere", math.MaxUint64},
		{"/a", 600},
		{"/a/b", 600},
		{"/a/b/small", 100},
		{"/a/b/tight", 0},
	} {
		if got := leftInGroup(root, test.group); got != test.want {
			t.Errorf("%s: got %d, want %d", test.group, got, test.want)
		}
	}
}
