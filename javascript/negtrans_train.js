// The tabs that train: asks for the training's state while one of them can be seen, once a second while a training
// runs. The same file serves the webui and the standalone page. Nothing here may break the page: every entry
// point catches its errors and shows them in the tab.
(function () {
    "use strict";

    const BUSY_MS = 1000;
    const IDLE_MS = 4000;
    const TABS = ["negtrans_train", "negtrans_finetune"];

    function root() {
        if (typeof gradioApp === "function") return gradioApp();
        const app = document.querySelector("gradio-app");
        return (app && app.shadowRoot) || document;
    }

    function showError(error) {
        console.error("negtrans:", error);
        for (const tab of TABS) {
            const place = root().querySelector(`#${tab}_message`);
            if (!place) continue;
            const line = document.createElement("p");
            line.className = "negtrans-error";
            line.textContent = "This page's script failed (" + error + "): reload the page.";
            place.replaceChildren(line);
        }
    }

    let asked = 0;
    let wasBusy = false;
    const picked = {};

    function press(selector) {
        const button = root().querySelector(selector);
        if (button) button.click();
    }

    const LISTS = {negative: "textual_inversion", lora: "lora", full: "checkpoints"};

    // the host's cards, and its list of checkpoints, are made when the page is loaded: a new file needs their buttons. Each of
    // them reads the folder again, and two at once find it half read: the second waits until the first one's cards are new.
    function refreshCards(kind) {
        const list = LISTS[kind];
        const old = root().querySelector(`#txt2img_${list}_cards`);
        const end = Date.now() + 10000; // cards that come back as they were may stay the same element
        const second = () => {
            if (old && old.isConnected && Date.now() < end) setTimeout(second, 200);
            else press(`#img2img_${list}_extra_refresh_internal`);
        };
        press(`#txt2img_${list}_extra_refresh_internal`);
        second();
        if (kind === "full") press("#refresh_sd_model_checkpoint, #forge_refresh_checkpoint");
    }

    let panelSeen = false;

    // the page's own list of embeddings is as old as the page: ask again whenever the script's panel comes into sight
    function listEmbeddings() {
        const panel = root().querySelector("#negtrans_img2img_embedding");
        const seen = Boolean(panel) && panel.offsetParent !== null;
        if (seen && !panelSeen) press("#negtrans_img2img_list_embeddings");
        panelSeen = seen;
    }

    // a message about a field is also said beside it, until the field is changed or the message is another one
    function besideFields() {
        const wanted = new Map();
        for (const message of root().querySelectorAll("[data-negtrans-about]")) {
            if (!message.dataset.answered) wanted.set(message.dataset.negtransAbout, message);
        }
        for (const placed of root().querySelectorAll(".negtrans-beside")) {
            const message = wanted.get(placed.dataset.field);
            if (!message || message.textContent !== placed.textContent) placed.remove();
        }
        for (const [id, message] of wanted) {
            const field = root().querySelector(`#${id}`);
            if (!field || field.querySelector(".negtrans-beside")) continue;
            for (let group = field.parentElement; group; group = group.parentElement) {
                const label = group.querySelector(":scope > .label-wrap:not(.open)");
                if (label) label.click();
            }
            const line = document.createElement("p");
            line.className = "negtrans-error negtrans-beside";
            line.dataset.field = id;
            line.textContent = message.textContent;
            field.append(line);
            field.addEventListener("input", () => (message.dataset.answered = "1"), {once: true});
            field.scrollIntoView({block: "nearest"});
        }
    }

    const followed = new Set();

    // a file that the server has put into a link is saved at once
    function saveFiles() {
        for (const link of root().querySelectorAll("a[data-negtrans-download]")) {
            if (followed.has(link.dataset.negtransDownload)) continue;
            followed.add(link.dataset.negtransDownload);
            link.click();
        }
    }

    // just before files come: they are dragged over the page, or the dialog that chose them has closed
    let chosen = 0;
    document.addEventListener("dragover", () => (chosen = Date.now()), true);
    window.addEventListener("focus", () => (chosen = Date.now()));

    // gradio 3 forgets an upload if any answer comes while it is under way: nothing is asked for meanwhile
    function takesFiles(tab) {
        const cells = [...root().querySelectorAll(`#${tab}_files .file-preview .download`)];
        return cells.some((cell) => !cell.querySelector("a"));
    }

    function poll() {
        try {
            listEmbeddings();
            besideFields();
            saveFiles();
            if (Date.now() - chosen > 1000 && !TABS.some(takesFiles)) TABS.forEach(pollTab);
        } catch (error) {
            showError(error);
        }
    }

    function pollTab(tab) {
        const status = root().querySelector(`#${tab}_status`);
        const button = root().querySelector(`#${tab}_poll`);
        // offsetParent is null while another tab is chosen
        if (!status || !button || status.offsetParent === null || document.hidden) return;
        const panel = status.querySelector("[data-busy]");
        const busy = Boolean(panel) && panel.dataset.busy === "1";
        if (wasBusy && !busy && panel && panel.dataset.phase === "finished") refreshCards(panel.dataset.kind);
        wasBusy = busy;
        for (const message of [`#${tab}_compare_message`, `#${tab}_message`]) {
            const choice = root().querySelector(`${message} [data-picked]`);
            if (!choice || choice.dataset.picked === picked[message]) continue;
            picked[message] = choice.dataset.picked;
            refreshCards(choice.dataset.kind);
        }
        const now = Date.now();
        const preparing = root().querySelector("[data-prepare='working'], [data-compare='working']");
        if (now - asked < (busy || preparing || !panel ? BUSY_MS : IDLE_MS)) return;
        asked = now;
        button.click();
    }

    // what the tab of photos has trained: a checkpoint is chosen as by its card
    function chooseCheckpoint() {
        const panel = root().querySelector("#negtrans_finetune_status [data-kind='full']");
        if (panel && typeof selectCheckpoint === "function") selectCheckpoint(panel.dataset.name);
        return Boolean(panel);
    }

    window.negtransUseTrained = function (...values) {
        try {
            if (!chooseCheckpoint() && typeof switch_to_img2img === "function") switch_to_img2img();
        } catch (error) {
            showError(error);
        }
        return values;
    };

    // "Then train the negative on it": the server fills the other tab
    window.negtransShowTrain = function (...values) {
        try {
            chooseCheckpoint();
            const tabs = root().querySelectorAll("#tabs > .tab-nav > button, #tabs [role=tab]");
            const content = root().querySelector("#tab_negtrans_train");
            const panes = [...root().querySelectorAll("#tabs > .tabitem")];
            const at = panes.indexOf(content);
            if (at >= 0 && tabs[at]) tabs[at].click();
        } catch (error) {
            showError(error);
        }
        return values;
    };

    // the button "Use in img2img": the server fills prompt and script, this changes the tab
    window.negtransShowImg2img = function (...values) {
        try {
            if (typeof switch_to_img2img === "function") switch_to_img2img();
            // its first inner tab is Generation; the cards' tabs hide the panel
            root().querySelector("#img2img_extra_tabs button")?.click();
        } catch (error) {
            showError(error);
        }
        return values;
    };

    if (!window.negtransTrainTimer) window.negtransTrainTimer = setInterval(poll, 250);
})();
