"use strict";
(() => {
  const data = JSON.parse(document.getElementById("bins").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const readout = document.getElementById("readout");
  const n = x => x.toLocaleString("en");
  const when = s => new Date(s * 1000).toISOString().slice(0, data.width < 60 ? 19 : 16).replace("T", " ");
  const show = event => {
    const box = event.currentTarget.getBoundingClientRect();
    const i = Math.min(data.events.length - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * data.events.length)));
    for (const plot of plots) {
      const cross = plot.querySelector(".cross");
      cross.style.display = "block";
      cross.style.left = `${(i + .5) / data.events.length * 100}%`;
    }
    const good = data.good[i] ? `, ${n(data.good[i])} of them ordinary ones of clients that look good` : "";
    readout.textContent = `From ${when(data.start + i * data.width)} UTC: ${n(data.events[i])} events, ${n(data.offences[i])} offences, ${n(data.bans[i])} bans, ${n(data.refused[i])} refused${good}.`;
  };
  for (const plot of plots) {
    plot.addEventListener("pointermove", show);
    plot.addEventListener("pointerdown", show);
  }
})();
