/** What a page is made of. Addresses are those by which the webview may load the files. */
export interface PageParts {
  readonly title: string;
  readonly nonce: string;
  readonly cspSource: string;
  readonly script: string;
  readonly style: string;
}

function escapeHtml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}

/**
 * Gives the HTML of a webview: one script and one style sheet, nothing inline, nothing from outside. The toolkit makes
 * style elements of its own and finds the nonce that allows them in the csp-nonce property.
 */
export function writePage({ title, nonce, cspSource, script, style }: PageParts): string {
  const policy = [
    `default-src 'none'`,
    `style-src ${cspSource} 'nonce-${nonce}'`,
    `script-src 'nonce-${nonce}'`,
    `font-src ${cspSource}`,
    `img-src ${cspSource}`,
    `base-uri 'none'`,
    `form-action 'none'`,
  ].join('; ');
  return `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${escapeHtml(policy)}">
<meta property="csp-nonce" content="${escapeHtml(nonce)}">
<title>${escapeHtml(title)}</title>
<link rel="stylesheet" href="${escapeHtml(style)}">
</head>
<body>
<script nonce="${escapeHtml(nonce)}" defer src="${escapeHtml(script)}"></script>
</body>
</html>
`;
}
