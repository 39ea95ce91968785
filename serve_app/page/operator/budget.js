// What a tenant may spend in a day or a month.

const PERIODS = [
  ["month", "month"],
  ["day", "day"],
];

/** Asks for the budget of a tenant of `v1/tenants`, and changes it. */
export async function askBudget(desk, { tenant, budget }) {
  const own = budget?.source === "api" ? budget : null;
  await desk.ask({
    title: `Budget of ${tenant}`,
    words:
      "It is in force within seconds. Only models with a price count. Without an amount, the " +
      "budget of the settings counts, if there is one.",
    action: "Change it",
    fields: [
      { name: "amount", label: "Amount", value: own?.amount ?? "", help: inForce(budget) },
      { name: "currency", label: "Currency", value: own?.currency ?? "USD" },
      { name: "period", label: "Period", choices: PERIODS, value: own?.period ?? "month" },
      {
        name: "warn",
        label: "Warn at, in percent",
        value: (own?.warn_at ?? [0.8]).map((share) => round(share * 100)).join(" "),
        help: "Separated by spaces. There is one warning for each in a period.",
      },
      { name: "webhook", label: "URL that is called with each warning", value: own?.webhook ?? "" },
      {
        name: "stop",
        label: "Refuse requests that exceed it",
        type: "checkbox",
        value: own?.stop ?? true,
      },
    ],
    submit: (values) =>
      desk.call("PATCH", `v1/tenants/${encodeURIComponent(tenant)}`, {
        limits: { budget: budgetOf(values) },
      }),
    done: `The budget of ${tenant} is changed.`,
  });
}

/** A budget in words. */
export function budgetWords(budget) {
  if (budget === null) return "any";
  const { amount, currency, period, stop } = budget;
  return `${amount} ${currency} a ${period}${stop ? "" : ", only warns"}`;
}

function budgetOf({ amount, currency, period, warn, webhook, stop }) {
  if (amount === "") return null;
  const shares = warn.split(/[\s,%]+/).filter((each) => each !== "");
  return {
    amount,
    currency: currency === "" ? null : currency,
    period,
    warn_at: shares.map((each) => Number(each) / 100),
    stop,
    webhook: webhook === "" ? null : webhook,
  };
}

function inForce(budget) {
  if (budget === null) return "Such as: 200. Now it may spend any amount.";
  const source = budget.source === "api" ? "Set here" : "By the settings of this tenant";
  return `${source}: ${budgetWords(budget)}.`;
}

function round(number) {
  return Math.round(number * 1e6) / 1e6;
}
