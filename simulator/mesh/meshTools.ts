import { ISTIO_TOOL } from './istio.ts';
import { KUMA_TOOL } from './kuma.ts';
import { LINKERD_TOOL } from './linkerd.ts';
import type { MeshTool } from './meshTool.ts';
import { OSM_TOOL } from './osm.ts';

/** The tools whose rules can be generated. */
export const MESH_TOOLS: readonly MeshTool[] = [ISTIO_TOOL, LINKERD_TOOL, KUMA_TOOL, OSM_TOOL];
