// Package pool sends requests to several backends, of which any may restart at any time.
//
// A [Pool] has all backends of a proxy, and a [Group] those that a request may go to. Each request
// goes to the backend with the fewest requests in progress. A backend is [Up], or gets no new
// requests:
//
//   - [Down]: a connect failed, or the connection was lost before a byte of the request was
//     sent. It is up when a probe succeeds.
//   - [Leaving]: it has answered 503 with Connection: close. It is down as soon as it refuses a
//     probe, and up if it has done so for 10 s in none, or when its health path answers. Without
//     a health path, and if no other backend is up, it gets one request a second to see; if that
//     is answered otherwise, it is up, and believed to stay for a minute.
//   - [Sick]: its health path has failed twice in a row. One success puts it back.
//
// A probe is a connect or, if there is a health path, a request for that. One that is not up is
// probed every second, or every two if that is a request. Of those that are up only the health
// path is asked. One that is not up has no idle connections: an application that stops gracefully
// would wait for them, in Node for 5 s.
//
// While no backend of its group is up, a request waits. Then each is probed every 10 ms, one
// attempt at a time, and the first that is up wakes all that wait for it. At most
// [MaxWaiting] requests wait, and at most [MaxReplay] bytes of the body of each are read, so that
// the server notices when its client leaves.
//
// A request of which no byte was sent goes to the next backend. One that was sent, and to which
// no byte of a response has come, is repeated only if its method is idempotent (RFC 9110,
// section 9.2.2), and it has no body, or all that was read of it is still there. It is repeated
// three times, to another backend if there is one. Nothing else is sent twice.
package pool
