export interface BpfMap { readonly name: string }
