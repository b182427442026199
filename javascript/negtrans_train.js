// The tab "Train Negative Embedding": asks for the training's state while the tab can be seen, once a second while a
// training runs. The same file serves the webui and the standalone page. Nothing here may break the page: every entry
// point catches its errors and shows them in the tab.
(function () {
    "use strict";

    const BUSY_MS = 1000;
    const IDLE_MS = 4000;

    function root() {
        if (typeof gradioApp === "function") return gradioApp();
        const app = document.querySelector("gradio-app");
        return (app && app.shadowRoot) || document;
    }

    function showError(error) {
        console.error("negtrans:", error);
        const place = root().querySelector("#negtrans_train_message");
        if (!place) return;
        const line = document.createElement("p");
        line.className = "negtrans-error";
        line.textContent = "This page's script failed (" + error + "): reload the page.";
        place.replaceChildren(line);
    }

    let asked = 0;
    let wasBusy = false;
    let picked = "";

    // the host's Textual Inversion cards are made when the page is loaded: a new embedding needs its refresh button
    function refreshCards() {
        for (const tab of ["txt2img", "img2img"]) {
            const button = root().querySelector(`#${tab}_textual_inversion_extra_refresh_internal`);
            if (button) button.click();
        }
    }

    let panelSeen = false;

    // the page's own list of embeddings is as old as the page: ask again whenever the script's panel comes into sight
    function listEmbeddings() {
        const panel = root().querySelector("#negtrans_img2img_embedding");
        const seen = Boolean(panel) && panel.offsetParent !== null;
        if (seen && !panelSeen) {
            const button = root().querySelector("#negtrans_img2img_list_embeddings");
            if (button) button.click();
        }
        panelSeen = seen;
    }

    function poll() {
        try {
            listEmbeddings();
            const status = root().querySelector("#negtrans_train_status");
            const button = root().querySelector("#negtrans_train_poll");
            // offsetParent is null while another tab is chosen
            if (!status || !button || status.offsetParent === null || document.hidden) return;
            const panel = status.querySelector("[data-busy]");
            const busy = Boolean(panel) && panel.dataset.busy === "1";
            if (wasBusy && !busy && panel && panel.dataset.phase === "finished") refreshCards();
            wasBusy = busy;
            const choice = root().querySelector("#negtrans_train_compare_message [data-picked]");
            if (choice && choice.dataset.picked !== picked) {
                picked = choice.dataset.picked;
                refreshCards();
            }
            const now = Date.now();
            const preparing = root().querySelector("[data-prepare='working'], [data-compare='working']");
            if (now - asked < (busy || preparing || !panel ? BUSY_MS : IDLE_MS)) return;
            asked = now;
            button.click();
        } catch (error) {
            showError(error);
        }
    }

    // the button "Use in img2img": the server fills prompt and script, this changes the tab
    window.negtransShowImg2img = function (...values) {
        try {
            if (typeof switch_to_img2img === "function") switch_to_img2img();
        } catch (error) {
            showError(error);
        }
        return values;
    };

    if (!window.negtransTrainTimer) window.negtransTrainTimer = setInterval(poll, 250);
})();
