/** UTF-16 units of the id of a call or an approval: with 2.7 KB it would not fit an index, nor some proxies' paths. */
const askedIdLengthMax = 512

/** Every bound that a client can meet, in one place. Bytes unless the name says otherwise. */
export const limits = {
  requestBytesMax: 256 * 1024,
  /** On `/api/chat`, where a client sends its whole history each time. */
  chatRequestBytesMax: 16 * 1024 * 1024,
  /** Of all bodies that a process is reading: sixteen files of the largest size. */
  bodiesBytesMax: 128 * 1024 * 1024,
  /** Of the data of an app's own event. */
  eventBytesMax: 64 * 1024,
  /** Of the data of a notice: push services take 4 KB with its text, its ids and what is around them. */
  notifyBytesMax: 2_560,
  /** One more takes the place of the one that was registered longest ago. */
  devicesOfUserMax: 20,
  jsonDepthMax: 32,
  idCharactersMax: 128,
  partsMax: 64,
  /** Of a message that waits for its turn. */
  editsMax: 64,
  /** Of one session. */
  membersMax: 100,
  /** Of one session, that are good. */
  invitesMax: 100,
  inviteLastsMs: 7 * 86_400_000,
  inviteLastsMsMax: 30 * 86_400_000,
  titleCharactersMax: 200,
  /** Of a refusal, and of a client's tool that failed. */
  reasonCharactersMax: 2_000,
  urlCharactersMax: 2_048,
  sessionPageMax: 100,
  sessionPageDefault: 30,
  messagePageMax: 200,
  messagePageDefault: 50,
  /** Seconds. */
  longPollMax: 55,
  longPollDefault: 25,
  /** A long poll that has collected this much answers at once. */
  longPollBytesMax: 256 * 1024,
  /** Waiting in a follower's socket: beyond this nothing is read for it until it has drained. */
  sendBufferBytesMax: 256 * 1024,
  /** Of what a user's sockets are sent and have not accepted yet, in one process: two of the largest frames. */
  framesOfUserBytesMax: 32 * 1024 * 1024,
  /** Waiting in a socket that is to be sent more: it is closed. One whole reply fits beside it. */
  socketBufferBytesMax: 1024 * 1024,
  /** Open at a time in one process. */
  socketsOfUserMax: 64,
  /** Answered at a time on one socket. */
  socketRequestsMax: 32,
  /** To `/v1/realtime`. What is larger is sent over HTTP. */
  realtimeFrameBytesMax: 64 * 1024,
  /** On one connection, of either kind. */
  followsMax: 100,
  requestIdCharactersMax: 128,
  /**
   * Of one token of Ably's: as many as a connection of theirs may have channels on every plan, three to a session
   * (https://ably.com/docs/platform/pricing/limits).
   */
  ablySessionsMax: 50,
  /** Not used yet and not expired. */
  ticketsOfUserMax: 32,
  ticketLastsMs: 30_000,
  /** After this whoever was told that somebody types takes it for ended. */
  typingLastsMs: 6_000,
  replyBytesMax: 1024 * 1024,
  /** Of a job's payload; the table holds it to that, too. */
  outboxPayloadBytesMax: 256 * 1024,
  outboxDelayMsMax: 365 * 86_400_000,
  outboxPageMax: 200,
  outboxPageDefault: 50,
  /** An attempt whose provider failed waits so long for the results of tools that run still. */
  callsEndWithinMs: 5_000,
  askedIdLengthMax,
  /** Of one request that imports. */
  importBytesMax: 4 * 1024 * 1024,
  importRowsMax: 1_000,
  /** New ones of one user, in one day. */
  importedRowsOfDayMax: 100_000,
  /** Of one session. */
  importedMessagesMax: 20_000,
  fileBytesMax: 8 * 1024 * 1024,
  filenameCharactersMax: 255,
  /** Of one session. */
  filesMax: 1_000,
  filesBytesMax: 200 * 1024 * 1024,
  /** Of the files in one prompt: three of the largest, 32 MB as base64. A provider may take less. */
  promptFileBytesMax: 24 * 1024 * 1024,
} as const

/**
 * Ids made by a model's provider or an app's reply: of calls and approvals, whatever they look like. What bundles a page sees
 * that nothing happens here, and leaves this file out where a page needs nothing of it.
 */
export const askedIdPattern = /* @__PURE__ */ new RegExp(`^\\P{C}{1,${askedIdLengthMax}}$`, 'u')
