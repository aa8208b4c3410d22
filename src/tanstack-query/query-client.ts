/** As much of TanStack Query (major 5) as is used, by its shape: nothing of it is imported, so it is no dependency. */
export type QueryKey = readonly unknown[]

export type QueryClient = {
  getQueryCache(): {
    findAll(filters: QueryFilters): CachedQuery[]
    subscribe(hear: (event: { type: string; query: CachedQuery; action?: { type: string } }) => void): () => void
  }
  setQueryData(queryKey: QueryKey, data: unknown, options?: { updatedAt?: number }): unknown
  invalidateQueries(filters: QueryFilters & { refetchType?: 'none' }): Promise<void>
}

export type QueryFilters = { queryKey: QueryKey; exact?: boolean; predicate?: (query: CachedQuery) => boolean }

export type CachedQuery = {
  readonly queryKey: QueryKey
  readonly queryHash: string
  readonly state: { readonly data: unknown; readonly dataUpdatedAt: number; readonly isInvalidated: boolean }
}
