// What the user has set, in pages old and new, and the words that we show in which language.

import { app } from "../../../scripts/app.js";

/** The value of a setting, ours or the page's own; undefined where the page has none. */
export function setting(id) {
  return app.extensionManager?.setting?.get?.(id) ?? app.ui?.settings?.getSettingValue?.(id);
}

/** Of words by language, { en, zh }, the user's, as host/language.py has it: Traditional Chinese is English, too. */
export function inUsersLanguage(words) {
  return words[setting("CUDAspeed.Language")] ?? words[setting("Comfy.Locale")] ?? words.en;
}
