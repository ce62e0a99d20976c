/** Attributes of an element. `class` is one or more names; false and undefined leave an attribute out; true writes it empty. */
export type Attributes = Readonly<Record<string, string | number | boolean | undefined>>;
/** What goes into an element: text is always put there as text, never as markup. */
export type Content = Node | string | null | undefined;

function fill<E extends Element>(element: E, attributes: Attributes, content: readonly Content[]): E {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? '' : String(value));
    }
  }
  for (const item of content) {
    if (item !== null && item !== undefined) {
      element.append(item);
    }
  }
  return element;
}

/** Gives an HTML element. */
export function html<Tag extends keyof HTMLElementTagNameMap>(tag: Tag, attributes: Attributes = {}, ...content: readonly Content[]): HTMLElementTagNameMap[Tag] {
  return fill(document.createElement(tag), attributes, content);
}

/** Gives an SVG element. */
export function svg<Tag extends keyof SVGElementTagNameMap>(tag: Tag, attributes: Attributes = {}, ...content: readonly Content[]): SVGElementTagNameMap[Tag] {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, content);
}
