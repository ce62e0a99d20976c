import {
  provideVSCodeDesignSystem,
  vsCodeButton,
  vsCodeCheckbox,
  vsCodeDropdown,
  vsCodeOption,
  vsCodeProgressRing,
  vsCodeTextField,
  type Checkbox,
  type Dropdown,
  type TextField,
} from '@vscode/webview-ui-toolkit';

// The only file that knows the toolkit: it is no longer developed, so that another set of controls must be able to take its place here.
provideVSCodeDesignSystem().register(vsCodeButton(), vsCodeCheckbox(), vsCodeDropdown(), vsCodeOption(), vsCodeProgressRing(), vsCodeTextField());

/** Gives a button. `quiet` is for all but the one main action of a page. */
export function createButton(label: string, press: () => void, quiet = false): HTMLElement {
  const button = document.createElement('vscode-button');
  button.setAttribute('appearance', quiet ? 'secondary' : 'primary');
  button.textContent = label;
  button.addEventListener('click', press);
  return button;
}

/** A text that can be read, written and watched. */
export interface TextControl {
  readonly element: HTMLElement;
  value: string;
}

/** Gives a field of one line. `input` is called at every change, `enter` at Enter. */
export function createTextField(options: {
  readonly label: string;
  readonly placeholder: string;
  readonly list?: string;
  readonly input?: (value: string) => void;
  readonly enter?: (value: string) => void;
}): TextControl {
  const field = document.createElement('vscode-text-field') as TextField;
  field.placeholder = options.placeholder;
  field.setAttribute('aria-label', options.label);
  if (options.list !== undefined) {
    field.setAttribute('list', options.list);
  }
  field.addEventListener('input', () => options.input?.(field.value));
  field.addEventListener('keydown', (event) => {
    if (event.key === 'Enter') {
      options.enter?.(field.value);
    }
  });
  return {
    element: field,
    get value() {
      return field.value;
    },
    set value(text) {
      field.value = text;
    },
  };
}

/** Gives a box to tick. */
export function createCheckbox(label: string, checked: boolean, change: (checked: boolean) => void): HTMLElement {
  const box = document.createElement('vscode-checkbox') as Checkbox;
  box.textContent = label;
  box.checked = checked;
  box.addEventListener('change', () => change(box.checked));
  return box;
}

/** Gives a list to choose one of. */
export function createDropdown(label: string, choices: readonly { readonly value: string; readonly label: string }[], selected: string): TextControl {
  const dropdown = document.createElement('vscode-dropdown') as Dropdown;
  dropdown.setAttribute('aria-label', label);
  for (const choice of choices) {
    const option = document.createElement('vscode-option');
    option.setAttribute('value', choice.value);
    option.textContent = choice.label;
    if (choice.value === selected) {
      option.setAttribute('selected', '');
    }
    dropdown.append(option);
  }
  return {
    element: dropdown,
    get value() {
      return dropdown.value;
    },
    set value(value) {
      dropdown.value = value;
    },
  };
}

/** Gives the sign of something that takes a moment. */
export function createProgressRing(label: string): HTMLElement {
  const ring = document.createElement('vscode-progress-ring');
  ring.setAttribute('aria-label', label);
  return ring;
}
