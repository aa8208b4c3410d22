/** `holdfast/testing`: what an app's own tests need to show that its chat survives. */
export type { Observer, Outcome, SessionEvent, Waiting } from './observed.ts'
export type { Piece, Script, ScriptedCall, ScriptedReply, ScriptFor } from './scripted-reply.ts'
export { scriptedReply } from './scripted-reply.ts'
export type { ToolPiece } from './scripted-tools.ts'
export type { TestServer, TestServerOptions } from './test-server.ts'
export { testServer } from './test-server.ts'
