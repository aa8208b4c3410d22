/**
 * Giving a Holdfast up as `kill -9` would end it, for `holdfast/testing`: within the process of a test, where `reply` is
 * the test's own function, there is no process to kill. It is no part of the type `Holdfast`, because no app should.
 *
 * From one moment on nothing of it reaches the database or a client: every socket of its own is destroyed at once, as the
 * kernel does for a dead process, and none is opened any more. Nothing is handed over, no lease is given back, nobody is
 * told. What is still in its memory unwinds (signals are aborted, timers end) and touches nothing.
 */
export const abandon: unique symbol = Symbol.for('holdfast.abandon')

/** Resolves when nothing of it is left in this process. For one that has a `database`: an embedded one would end with it. */
export type Abandonable = { [abandon](): Promise<void> }
