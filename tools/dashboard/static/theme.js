// Light or dark: as the system has it, or as somebody chose here.

const KEY = "fedfstq-theme";

function kept() {
  try {
    return localStorage.getItem(KEY) ?? "auto";
  } catch {
    return "auto";
  }
}

export function startTheme() {
  const buttons = [...document.querySelectorAll("[data-theme-choice]")];
  const choose = (choice) => {
    document.documentElement.dataset.theme = choice;
    for (const one of buttons) one.setAttribute("aria-pressed", String(one.dataset.themeChoice === choice));
  };
  for (const one of buttons) {
    one.addEventListener("click", () => {
      choose(one.dataset.themeChoice);
      try {
        localStorage.setItem(KEY, one.dataset.themeChoice);
      } catch {
        // Where nothing may be kept it holds until the page is closed.
      }
    });
  }
  choose(kept());
}
