/** What Streamdown asks of `tailwind-merge`: here classes stand side by side. */
export const twMerge = (...classes: unknown[]): string => classes.flat().filter(Boolean).join(' ')
