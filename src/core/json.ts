/** Any value that survives JSON. What apps attach (metadata, tool input and output) is this and is never interpreted. */
export type Json = string | number | boolean | null | Json[] | { [key: string]: Json }
export type JsonObject = { [key: string]: Json }
