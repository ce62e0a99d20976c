import { generateIstioAmbientRules, ISTIO_AMBIENT_OPTIONS, readIstioAmbientOptions } from './istioAmbient.ts';
import { generateIstioSidecarRules, ISTIO_INJECTED, ISTIO_SIDECAR_OPTIONS, ISTIO_TOOL_DEFAULTS, readIstioSidecarOptions } from './istioSidecar.ts';
import type { MeshTool } from './meshTool.ts';

export const ISTIO_TOOL: MeshTool = {
  name: 'istio',
  summary: "The rules of Istio's sidecar (istio-iptables) or of ambient mode (istio-cni).",
  description: [
    'The options are those of istio-iptables, with its defaults: where none is given, the chains are there and nothing is captured. --injected takes for what is left out what the injector gives a sidecar: -b "*" -d 15020,15021,15090 -i "*".',
  ],
  options: [
    { name: 'injected', type: 'boolean', description: 'Take what the injector gives a sidecar for all that is left out.' },
    ...ISTIO_SIDECAR_OPTIONS,
    ...ISTIO_AMBIENT_OPTIONS,
  ],
  generate: (values) => {
    if (values.flag('ambient') || values.flag('ambient-host')) {
      return generateIstioAmbientRules(readIstioAmbientOptions(values, [{ name: 'injected', type: 'boolean', description: '' }, ...ISTIO_SIDECAR_OPTIONS]));
    }
    const options = readIstioSidecarOptions(values, values.flag('injected') ? ISTIO_INJECTED : ISTIO_TOOL_DEFAULTS);
    return generateIstioSidecarRules(options);
  },
  ipv6Option: 'dual-stack',
};
