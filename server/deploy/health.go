package deploy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// checkHealth asks what it has to: a whole URL or, of a path, each of the addresses of a
// service. An answer below 500 is good. It allows for a bad moment, as of a backend that
// was just restarted. It returns the answers, for people.
func checkHealth(what string, addresses []string) (answers string, err error) {
	for _, wait := range []time.Duration{0, 500 * time.Millisecond, time.Second} {
		time.Sleep(wait)
		if answers, err = checkOnce(what, addresses); err == nil {
			return answers, nil
		}
	}
	return "", err
}

func checkOnce(what string, addresses []string) (string, error) {
	if strings.Contains(what, "://") {
		code, _, err := fetch(what, "", false)
		return judge(what, code, err)
	}
	label := strings.TrimSuffix(what, "/")
	if what != "/" {
		label = what
	}
	var answers []string
	for _, address := range addresses {
		authority, socket := dialable(address)
		code, body, err := fetch("http://"+authority+what, socket, false)
		// A listener for TLS says so. Its certificate is for names, not for this address.
		if err == nil && code == http.StatusBadRequest && strings.Contains(body, "HTTP request to an HTTPS server") {
			code, _, err = fetch("https://"+authority+what, socket, true)
		}
		answer, err := judge(address+label, code, err)
		if err != nil {
			return "", err
		}
		answers = append(answers, answer)
	}
	if len(answers) == 0 {
		return "no address is known for the health check; --health names one", nil
	}
	return strings.Join(answers, ", "), nil
}

// dialable returns what to ask for at an address that a server is bound to.
func dialable(address string) (authority, socket string) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return "localhost", path
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address, ""
	}
	switch host {
	case "", "*", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return net.JoinHostPort(host, port), ""
}

// fetch returns the status and the beginning of the body of one answer: proxies are not
// used, and redirections not followed.
func fetch(target, socket string, unverified bool) (code int, body string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: unverified}}
	if socket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return 0, "", err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	beginning, _ := io.ReadAll(io.LimitReader(response.Body, 200))
	return response.StatusCode, string(beginning), nil
}

// judge says what an answer means.
func judge(label string, code int, err error) (string, error) {
	if outer := (*url.Error)(nil); errors.As(err, &outer) {
		err = outer.Err
	}
	if err != nil {
		return "", fmt.Errorf("%s does not answer: %w", label, err)
	}
	if code >= 500 {
		return "", fmt.Errorf("%s answers %d", label, code)
	}
	return fmt.Sprintf("%s answers %d", label, code), nil
}
