// Bare serves a directory with net/http and nothing else, over TLS and without.
package main

import (
	"flag"
	"log"
	"net/http"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "`address` for HTTP/1.1, and HTTP/2 by prior knowledge")
	secure := flag.String("tls", "127.0.0.1:8443", "`address` for the same over TLS")
	root := flag.String("root", ".", "`directory` to serve")
	cert := flag.String("cert", "", "`file` of the certificate")
	key := flag.String("key", "", "`file` of its key")
	flag.Parse()
	srv := &http.Server{Addr: *listen, Handler: http.FileServer(http.Dir(*root)), Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	go func() { log.Fatal(srv.ListenAndServe()) }()
	log.Fatal((&http.Server{Addr: *secure, Handler: srv.Handler}).ListenAndServeTLS(*cert, *key))
}
