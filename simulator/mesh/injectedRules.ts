import { generateIstioSidecarRules, ISTIO_INJECTED } from './istioSidecar.ts';
import { generateKumaRules, KUMA_DEFAULTS } from './kuma.ts';
import { generateLinkerdRules, LINKERD_INJECTED } from './linkerd.ts';
import type { MeshRules } from './meshRules.ts';
import { generateOsmRules, OSM_DEFAULTS } from './osm.ts';

const GENERATORS: ReadonlyMap<string, () => MeshRules> = new Map([
  ['istio', () => generateIstioSidecarRules(ISTIO_INJECTED)],
  ['linkerd', () => generateLinkerdRules(LINKERD_INJECTED)],
  ['kuma', () => generateKumaRules(KUMA_DEFAULTS)],
  ['osm', () => generateOsmRules(OSM_DEFAULTS)],
]);

/** Gives the rules that a pod gets where a mesh's injector is told nothing else; undefined for a mesh that is not known. */
export function generateInjectedRules(mesh: string): MeshRules | undefined {
  return GENERATORS.get(mesh)?.();
}
