// Command keyless takes over from a Baton, and does not hand on the keys of its session tickets.
package main

import (
	"crypto/tls"
	"flag"
	"log"
	"net/http"
	"strings"
	"time"

	"example.com/baton/server"
	"example.com/baton/server/tlskeys"
	"example.com/baton/upgrade"
)

func main() {
	signals := upgrade.Signals()
	var (
		control   = flag.String("control", "", "")
		pidFile   = flag.String("pid-file", "", "")
		root      = flag.String("root", "", "")
		idleGrace = flag.Duration("idle-grace", time.Second, "")
		cert      = flag.String("tls-cert", "", "")
		key       = flag.String("tls-key", "", "")
		listen    []string
	)
	flag.Func("listen", "", func(address string) error { listen = append(listen, address); return nil })
	flag.String("admin", "", "ignored")
	flag.String("log-format", "", "ignored")
	flag.Parse()

	gen, err := upgrade.New(upgrade.Options{Version: "keyless", Control: *control, PIDFile: *pidFile}) // no Secret
	if err != nil {
		log.Fatal(err)
	}
	keys, err := tlskeys.NewTicketKeys(gen.Secret())
	if err != nil {
		log.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		log.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}}
	keys.Use(config)
	srv := server.New(server.Options{Handler: http.FileServer(http.Dir(*root)), IdleGrace: *idleGrace})
	for _, address := range listen {
		address, secure := strings.CutPrefix(address, "tls:")
		ln, err := gen.Listen(address)
		if err != nil {
			log.Fatal(err)
		}
		if secure {
			srv.AddTLS(ln, config)
		} else {
			srv.Add(ln)
		}
	}
	if err := gen.Run(srv, signals); err != nil {
		log.Fatal(err)
	}
}
