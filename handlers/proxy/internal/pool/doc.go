// Package pool sends requests to several backends, of which any may restart at any time.
//
// A [Pool] has all backends of a proxy, and a [Group] those that a request may go to. Each request
// goes to the backend with the fewest requests in progress. A backend is [Up], or gets no new
// requests:
//
//   - [Down]: a connect failed, or the connection was lost before a byte of the request was
//     sent. It is probed, at most once a second, and is up when it accepts a connection, or if
//     there is a health path when that answers.
//   - [Leaving]: it has answered 503 with Connection: close. After 10 s, or after 1 s if no
//     other backend is up, it gets one request to see. A backend that refuses connections
//     meanwhile has gone, and is up when it is back; so it is when its health path answers.
//   - [Sick]: its health path has failed twice in a row. One success puts it back.
//
// While no backend of its group is up, a request waits. Then each backend is probed every 10 ms,
// one attempt at a time, and the first that is up wakes all that wait for it. At most
// [MaxWaiting] requests wait, and at most [MaxReplay] bytes of the body of each are read, so that
// the server notices when its client leaves.
//
// A request of which no byte was sent goes to the next backend. One that was sent, and to which
// no byte of a response has come, is repeated only if its method is idempotent (RFC 9110,
// section 9.2.2), and it has no body, or all that was read of it is still there. A backend gets it
// once, a single one twice. Nothing else is sent twice.
package pool
