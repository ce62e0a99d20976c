export interface KernelSocket { readonly cookie: bigint }
