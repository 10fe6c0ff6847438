package settings_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/baton/server/settings"
)

func TestTrialWarnings(t *testing.T) {
	const unit = "and baton.service waits for 2m50s"
	for args, want := range map[string][]string{
		"": nil,
		"-canary 10% -canary-latency -canary-undecided abort -watch 10s": nil,
		"-watch 10s -canary-latency":                                     nil,
		"-migrate=false":                                                 nil,
		"-control= -drain-timeout 10m":                                   nil,
		"-canary 10% -migrate=false":                                     {"-canary: with -migrate=false no connection"},
		"-watch 1s -migrate=false":                                       {"-watch: with -migrate=false a take-back closes"},
		"-watch 1s -canary-time 20s":                                     {"-canary-time: without -canary"},
		"-canary-latency -canary-undecided abort":                        {"-canary-latency: without -canary and -watch", "-canary-undecided: without -canary and -watch"},
		"-watch 1s -control=":                                            {"-control is empty: baton promote"},
		"-watch 10s -canary 1 -canary-time 31s":                          {"an upgrade may take 2m51s, " + unit},
		"-watch 41s":                                                     {"an upgrade may take 2m51s, " + unit},
		"-watch 41s -upgrade-timeout 59s":                                nil,
	} {
		t.Run(args, func(t *testing.T) {
			s, err := settings.Read(settings.Input{Args: strings.Fields(args)})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, warning := range s.TrialWarnings() {
				got = append(got, warning.Error())
			}
			if !slices.EqualFunc(got, want, strings.Contains) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestUpgradeTime(t *testing.T) {
	for args, want := range map[string]time.Duration{
		"":                                  130 * time.Second,
		"-canary-time 1h":                   130 * time.Second,
		"-canary 1% -watch 10s":             170 * time.Second,
		"-drain-timeout 1s -canary-time 1s": 72 * time.Second,
	} {
		s, err := settings.Read(settings.Input{Args: strings.Fields(args)})
		if got := s.UpgradeTime(); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", args, got, err, want)
		}
	}
}
