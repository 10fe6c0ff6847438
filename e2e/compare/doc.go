// Package compare tells what other servers lose in upgrades under the same load as Baton:
//
//	go test ./e2e/compare -others=10 -v
//
// In ten upgrades with 136 connections (8 that ask back to back, 64 that pause, 64 idle ones) of clients
// that never retry, on two busy cores, requests failed / connections closed. A stream of HTTP/2 that is refused
// counts as failed.
//
//	                                                                      plain       TLS 1.3     HTTP/2 over TLS
//	tableflip 1.2.3, the recipe of its README, with http.Server.Shutdown  306 / 1361  370 / 1360  216 / 1360
//	nginx 1.22.1, binary upgrade (USR2, WINCH, QUIT)                      157 / 1365  205 / 1365  not tried
//	nginx 1.22.1, reload (HUP)                                            168 / 1360  169 / 1360  391 / 1341
//	HAProxy 2.6.12, reload (USR2)                                         124 / 1360  168 / 1360  0 / 1360
//	HAProxy 2.6.12, with option idle-close-on-response                    0 / 720     0 / 720     0 / 1360
//	Caddy 2.6.2, reload                                                   221 / 1361  168 / 1360  535 / 1360
//	Baton                                                                 0 / 0       0 / 0       0 / 0
package compare
