package process

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"
)

func Run(t testing.TB, path string, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // for a command that does much, and is only slow
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Errorf("run %s %v: %v", path, args, err)
		return -1, "", ""
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}
