package upgrade_test

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"example.com/baton/upgrade"
)

func TestAskFails(t *testing.T) {
	dir := t.TempDir()
	silent := filepath.Join(dir, "silent")
	ln, err := net.Listen("unix", silent)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	hasty := filepath.Join(dir, "hasty")
	ln2, err := net.Listen("unix", hasty)
	if err != nil {
		t.Fatal(err)
	}
	defer ln2.Close()
	go func() {
		for {
			nc, err := ln2.Accept()
			if err != nil {
				return
			}
			io.WriteString(nc, "{")
			nc.Close()
		}
	}()
	for name, test := range map[string]struct {
		path string
		want error
	}{
		"no socket":     {filepath.Join(dir, "none"), upgrade.ErrNoServer},
		"silent server": {silent, context.DeadlineExceeded},
		"server ends":   {hasty, upgrade.ErrLost},
	} {
		t.Run(name, func(t *testing.T) {
			limit := time.Minute
			if errors.Is(test.want, context.DeadlineExceeded) {
				limit = 50 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			if _, err := upgrade.Ask(ctx, test.path, upgrade.Overrides{}, nil); !errors.Is(err, test.want) {
				t.Errorf("Ask: got %v, want %v", err, test.want)
			}
			if _, err := upgrade.AskStatus(ctx, test.path); !errors.Is(err, test.want) {
				t.Errorf("AskStatus: got %v, want %v", err, test.want)
			}
			if err := upgrade.Promote(ctx, test.path); !errors.Is(err, test.want) {
				t.Errorf("Promote: got %v, want %v", err, test.want)
			}
			if err := upgrade.Abort(ctx, test.path, "bad"); !errors.Is(err, test.want) {
				t.Errorf("Abort: got %v, want %v", err, test.want)
			}
		})
	}
}
