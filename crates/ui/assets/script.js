"use strict";
// Everything works without this: it adds copy buttons, and selection of all rows.
(() => {
  const announce = document.createElement("div");
  announce.className = "away";
  announce.setAttribute("role", "status");
  document.body.append(announce);

  const copy = async (text) => {
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(text);
      return;
    }
    // Over plain HTTP there is no clipboard API.
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "away";
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  };

  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await copy(button.dataset.copy);
        button.classList.add("copied");
        announce.textContent = "Copied";
        setTimeout(() => {
          button.classList.remove("copied");
          announce.textContent = "";
        }, 1500);
      } catch {
        announce.textContent = "Copying failed";
      }
    });
  }

  for (const form of document.querySelectorAll("form[data-select]")) {
    const boxes = [...form.querySelectorAll("tbody input[type=checkbox]")];
    const all = form.querySelector("input[data-all]");
    const submit = form.querySelector("button[data-count]");
    if (!submit || boxes.length === 0) continue;
    const name = submit.textContent;
    const update = () => {
      const count = boxes.filter((box) => box.checked).length;
      submit.disabled = count === 0;
      submit.textContent = count === 0 ? name : `${name} (${count})`;
      if (all) {
        all.checked = count === boxes.length;
        all.indeterminate = count > 0 && count < boxes.length;
      }
    };
    if (all) {
      all.closest("label").hidden = false;
      all.addEventListener("change", () => {
        for (const box of boxes) box.checked = all.checked;
        update();
      });
    }
    form.addEventListener("change", update);
    update();
  }

  for (const select of document.querySelectorAll("select[data-submit]")) {
    select.addEventListener("change", () => select.form.requestSubmit());
  }
})();
