/** Ids made by a client: of sessions and of messages. `.` and `..` would vanish from a URL's path. */
export const idPattern = /^(?!\.{1,2}$)[A-Za-z0-9._:~-]{1,128}$/
