// A server as the README of github.com/cloudflare/tableflip tells how to write one: SIGHUP upgrades,
// and the old process ends in http.Server.Shutdown.
package main

import (
	"context"
	"flag"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/cloudflare/tableflip"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "address to listen on")
	secure := flag.String("tls", "127.0.0.1:8443", "address to listen on for TLS")
	cert := flag.String("cert", "", "certificate")
	key := flag.String("key", "", "its key")
	pidFile := flag.String("pid-file", "", "names the process that serves")
	body := flag.String("body", "hello\n", "what every request is answered")
	flag.Parse()

	upgrader, err := tableflip.New(tableflip.Options{PIDFile: *pidFile})
	if err != nil {
		log.Fatal(err)
	}
	defer upgrader.Stop()

	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		for range hangups {
			if err := upgrader.Upgrade(); err != nil {
				log.Println("upgrade:", err)
			}
		}
	}()

	listener, err := upgrader.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	secureListener, err := upgrader.Listen("tcp", *secure)
	if err != nil {
		log.Fatal(err)
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Pid", strconv.Itoa(os.Getpid()))
		io.WriteString(w, *body)
	})}
	go func() {
		if err := server.Serve(listener); err != http.ErrServerClosed {
			log.Fatal(err)
		}
	}()
	go func() {
		if err := server.ServeTLS(secureListener, *cert, *key); err != http.ErrServerClosed {
			log.Fatal(err)
		}
	}()

	if err := upgrader.Ready(); err != nil {
		log.Fatal(err)
	}
	<-upgrader.Exit()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		log.Println("shutdown:", err)
	}
}
